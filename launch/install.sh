#!/usr/bin/env bash
# Creates .venv with a Python that can run MXNet, this package, and Horovod compiled against that MXNet.
#
#   launch/install.sh [EXTRA...]    extras of setup.py; default: cpu horovod board
#
# A single process does not need Horovod; without the horovod extra no compiler is needed. The environment need not be
# activated. If everything is already installed, the script returns at once. Variables:
#   PYTHON  interpreter    (default: python3 or another installed Python 3.8 to 3.12, otherwise uv downloads 3.11)
#   VENV    environment    (default: .venv in the repository)
#   JOBS    parallel compilers    (default: one per core, limited to one per GiB of free memory)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${VENV:-$PWD/.venv}
log=$venv/install.log
stamp=$venv/installed
wheels=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/dist_ft/wheels

die() { printf 'install: %s\n' "$*" >&2; exit 1; }

. launch/build_horovod.sh

# ---- progress -------------------------------------------------------------------------------------------------------

if [ -t 1 ]; then every_s=1 wipe=$'\r\033[K' newline='' ; else every_s=10 wipe='' newline=$'\n'; fi

# step LABEL COMMAND...: runs a command with its output in the log, and shows progress. If progress=REGEX is set, only
# output lines that match it are shown.
step() {
    local label=$1; shift
    printf '\n== %s: %s\n' "$label" "$*" >>"$log"
    if ! "$@" 2>&1 | tee -a "$log" | show_progress "$label"; then
        { grep -iE '(error|fatal|killed)\b' "$log" || true; } | tail -n 12 >&2
        die "\"$label\" failed: the last error messages are above, the whole output is in $log"
    fi
}

# Shows the elapsed time and the last line of standard input: on a terminal in one line that is updated every second,
# otherwise in a new line every ten seconds.
show_progress() {
    local label=$1 start=$SECONDS shown=$SECONDS line last='' status
    while true; do
        if read -r -t 1 line; then
            [[ ! $line =~ ${progress:-.} ]] || last=${line//[[:cntrl:]]/}
        else
            status=$?
            [ $status -gt 128 ] || break    # above 128: no line within the second; otherwise end of input
        fi
        if [ $((SECONDS - shown)) -ge $every_s ]; then
            shown=$SECONDS
            printf '%s%-24s %3d s  %.72s%s' "$wipe" "$label" $((SECONDS - start)) "$last" "$newline"
        fi
    done
    printf '%s%-24s %3d s  done\n' "$wipe" "$label" $((SECONDS - start))
}

# ---- Python ---------------------------------------------------------------------------------------------------------

version() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo none; }

is_supported() { [[ $(version "$1") =~ ^3\.(8|9|10|11|12)\. ]]; }

# Prints the first installed Python that MXNet 1.9.1 supports.
find_python() {
    local python
    for python in python3 python3.{11,10,9,8,12} "${HOME:-}"/.pyenv/versions/3.{11,10,9,8,12}.*/bin/python3; do
        ! is_supported "$python" || { command -v "$python"; return; }
    done
    return 1
}

# make_venv PYTHON FOLDER. On Debian without python3-venv, venv cannot install pip: download pip, verify its hash, and
# let it install itself.
make_venv() {
    local pip=pip-24.0-py3-none-any.whl
    local url=https://files.pythonhosted.org/packages/8a/6a/19e9fe04fca059ccf770861c7d5721ab4c2aebc539889e97c7977528a53b
    local sha256=ba0d021a166865d2265246961bec0152ff124de910c5cc39f1156ce3fa7c69dc
    "$1" -m venv "$2" >/dev/null 2>&1 || {
        rm -rf "$2"
        "$1" -m venv --without-pip "$2" &&
            "$2/bin/python" -c 'import sys, urllib.request as u; u.urlretrieve(*sys.argv[1:])' "$url/$pip" "$2/$pip" &&
            echo "$sha256  $2/$pip" | sha256sum --check --quiet &&
            "$2/bin/python" "$2/$pip/pip" install --quiet --no-index "$2/$pip"
    } 2>/dev/null
}

# Creates the environment with a Python 3.11 that uv downloads.
download_python() {
    local uv=uv
    command -v uv >/dev/null || {
        make_venv python3 "$work/uv" && "$work/uv/bin/pip" install --quiet uv && uv=$work/uv/bin/uv
    } 2>/dev/null || return
    "$uv" venv --quiet --seed --python 3.11 "$venv" 2>/dev/null
}

# True if the existing environment can be used: its Python is supported and has the version of $PYTHON, and it has not
# been moved.
is_reusable() {
    is_supported "$venv/bin/python" && grep -qsF "$venv/bin/" "$venv/bin/pip" &&
        { [ -z "${PYTHON:-}" ] || [ "$(version "$PYTHON")" = "$(version "$venv/bin/python")" ]; }
}

ensure_venv() {
    local python
    ! is_reusable || return 0
    if [ -e "$venv" ] && [ ! -e "$log" ] && [ -n "$(ls -A "$venv")" ]; then
        die "$venv was not created by this script: remove it, or set VENV to another folder"
    fi
    rm -rf "$venv"
    python=${PYTHON:-$(find_python || true)}
    if [ -n "$python" ]; then
        is_supported "$python" ||
            die "PYTHON=$python is Python $(version "$python"), but MXNet 1.9.1 needs 3.8 to 3.12"
        echo "$venv: Python $(version "$python") ($python)"
        make_venv "$python" "$venv" || die "$python cannot create an environment: apt-get install python3-venv"
    else
        echo "$venv: found no Python 3.8 to 3.12 (python3 is $(version python3)), downloading one with uv"
        download_python || die "found no Python 3.8 to 3.12 and could not download one: install one (for example 3.11 \
with apt-get, pyenv or conda) and set PYTHON to its path"
    fi
    : >"$log"
}

# With a newer numpy MXNet fails at import, with an error that does not name the cause.
check_numpy() {
    local numpy
    for numpy in "$venv"/lib/python3.*/site-packages/numpy-*.dist-info; do
        case $numpy in
            */numpy-\**) ;;    # not installed yet
            */python3.12/*/numpy-1.26.4.* | */python3.[89]/*/numpy-1.23.* | */python3.1[01]/*/numpy-1.23.*) ;;
            *) die "MXNet 1.9.1 cannot be imported with $(basename "$numpy" .dist-info) in $venv:" \
                "$venv/bin/pip install '$("$venv/bin/python" -c 'import sys
print("numpy==1.26.4" if sys.version_info >= (3, 12) else "numpy<1.24")')'" ;;
        esac
    done
}

# ---- requirements, which only setup.py lists ------------------------------------------------------------------------

# Prints the pinned requirement of a package, for example horovod==0.28.1.
pin() { sed -n "s/.*\"\($1==[^\"]*\)\".*/\1/p" setup.py; }

# Prints the requirements of an extra, except the package with the same name, which needs special installation.
other_requirements() {
    "$venv/bin/python" -c 'if True:
        import sys
        from importlib import metadata
        from packaging.requirements import Requirement
        extra = sys.argv[1]
        for requirement in map(Requirement, metadata.requires("dist-ft")):
            marker = requirement.marker
            if marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
                if requirement.name != extra:
                    print(f"{requirement.name}{requirement.specifier}")
    ' "$1"
}

# includes LIST WORD...: true if the space-separated list has every word.
includes() {
    local list=" $1 " word; shift
    for word; do [[ $list == *" $word "* ]] || return 1; done
}

# ---- installation ---------------------------------------------------------------------------------------------------

# libmxnet.so looks for CUDA in its own folder first: link the libraries of NVIDIA's packages there.
link_cuda() {
    local site=("$venv"/lib/python3.*/site-packages)
    ln -sfr "${site[0]}"/nvidia/*/lib/*.so.* "${site[0]}/mxnet/"
}

# On Python 3.12 MXNet needs dist_ft/compat.py, also in processes that do not import dist_ft, such as horovodrun's.
load_compat_at_startup() {
    local packages=$venv/lib/python3.12/site-packages
    [ ! -d "$packages" ] || echo 'import dist_ft.compat' >"$packages/dist_ft_compat.pth"
}

# install_packages EXTRA...: installs everything except Horovod itself.
install_packages() {
    local extra extras='' setuptools='setuptools>=64,<80' others
    ! includes "$*" horovod || setuptools='setuptools>=64,<70'    # Horovod's build fails with later ones
    for extra; do
        case $extra in horovod | gluoncv) ;; *) extras+=,$extra ;; esac
    done
    [ "$mpi" = nompi ] || extras+=,mpi
    step "setuptools" "$venv/bin/pip" install 'pip>=22' "$setuptools" wheel packaging
    step "MXNet and the rest" "$venv/bin/pip" install --no-build-isolation --use-pep517 -e ".[${extras#,}]"

    others=$(other_requirements gluoncv; ! includes "$*" horovod || other_requirements horovod)
    # shellcheck disable=SC2086    # a list of words
    [ -z "$others" ] || step "other requirements" "$venv/bin/pip" install $others
    # Its dependencies include opencv-python, which would replace the headless one, and pandas, which is not needed.
    step "gluoncv" "$venv/bin/pip" install --no-deps "$(pin gluoncv)"
}

install() {
    local mpi mxnet cache='' key old_key='' old_extras=''
    [ $# -gt 0 ] || set -- cpu horovod board
    [ "$(uname -sm)" = "Linux x86_64" ] || die "MXNet 1.9.1 needs Linux on x86-64, but this is $(uname -sm)"
    ensure_venv
    check_numpy

    # The stamp has a key of what was installed, then the extras.
    mpi=$(mpi_version)
    key=$(cat setup.py launch/install.sh launch/build_horovod.sh | cksum | tr ' ' -)-$mpi
    [ ! -e "$stamp" ] || read -r old_key old_extras <"$stamp"
    if [ "$key" = "$old_key" ]; then
        ! includes "$old_extras" "$@" || return 0
        # shellcheck disable=SC2086    # a list of words
        set -- $old_extras "$@"
    fi
    rm -f "$stamp"

    case " $* " in
        *' cu112 '*) mxnet=$(pin mxnet-cu112) ;;
        *' cu100 '*) mxnet=$(pin mxnet-cu100) ;;
        *) mxnet=$(pin mxnet) ;;
    esac
    if includes "$*" horovod; then
        cache=$wheels/$(wheel_key "$mxnet" "$(pin horovod)" "$mpi")
        compgen -G "$cache/*.whl" >/dev/null || check_compilers "$mxnet"
    fi

    install_packages "$@"
    load_compat_at_startup
    ! includes "$*" cu112 || link_cuda
    [ -z "$cache" ] || install_horovod "$cache" "$(pin horovod)" "$mpi" "$(gpu_operations "$mxnet")"
    check_numpy
    echo "$key $*" >"$stamp"
}

[ "${BASH_SOURCE[0]}" = "$0" ] || return 0    # the tests source this file for its functions

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PROGRESS_BAR=off
install "$@"
