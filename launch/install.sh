#!/usr/bin/env bash
# Makes .venv: a Python that MXNet runs on, this package, and Horovod compiled against that MXNet.
#
#   launch/install.sh [EXTRA...]    extras of setup.py; default: cpu horovod board
#
# One process needs no Horovod: without that extra no compiler is needed either. Nothing has to be activated, and a call
# that finds everything in place returns at once.
#   PYTHON  the interpreter to use    (default: python3, else another that fits, else uv fetches one)
#   VENV    where to install          (default: .venv in the repository)
#   JOBS    compilers at a time       (default: one a core, but no more than one a GiB of free memory)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${VENV:-$PWD/.venv}
log=$venv/install.log
stamp=$venv/installed
mended=iface.names    # of our Horovod's version, 0.28.1+iface.names: see mend_horovod
wheels=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/dist_ft/wheels

die() { printf 'install: %s\n' "$*" >&2; exit 1; }

# ---- what it shows meanwhile ----------------------------------------------------------------------------------------

if [ -t 1 ]; then every_s=1 wipe=$'\r\033[K' newline='' ; else every_s=10 wipe='' newline=$'\n'; fi

# step LABEL COMMAND...: the command's output goes to the log, its last line and the seconds to the screen; with
# show=REGEX in front, the last line that matches.
step() {
    local label=$1; shift
    printf '\n== %s: %s\n' "$label" "$*" >>"$log"
    if ! "$@" 2>&1 | tee -a "$log" | ticker "$label"; then
        { grep -iE '(error|fatal|killed)\b' "$log" || true; } | tail -n 12 >&2
        die "\"$label\" failed; those are its last words about errors, all of it is in $log"
    fi
}

# One line that rewrites itself on a terminal, elsewhere a line every ten seconds.
ticker() {
    local label=$1 start=$SECONDS shown=$SECONDS line last='' status
    while true; do
        if read -r -t 1 line; then
            [[ ! $line =~ ${show:-.} ]] || last=${line//[[:cntrl:]]/}
        else
            status=$?    # above 128: a second passed without a line; otherwise that was the last one
            [ $status -gt 128 ] || break
        fi
        if [ $((SECONDS - shown)) -ge $every_s ]; then
            shown=$SECONDS
            printf '%s%-24s %3d s  %.72s%s' "$wipe" "$label" $((SECONDS - start)) "$last" "$newline"
        fi
    done
    printf '%s%-24s %3d s  done\n' "$wipe" "$label" $((SECONDS - start))
}

# ---- a Python -------------------------------------------------------------------------------------------------------

version() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo none; }

fits() { [[ $(version "$1") =~ ^3\.(8|9|10|11|12)\. ]]; }

# Prints the first Python here that MXNet 1.9.1 runs on.
find_python() {
    local python
    for python in python3 python3.{11,10,9,8,12} "${HOME:-}"/.pyenv/versions/3.{11,10,9,8,12}.*/bin/python3; do
        ! fits "$python" || { command -v "$python"; return; }
    done
    return 1
}

# make_venv PYTHON FOLDER. Debian's python3 alone has venv but no pip to put there (python3-venv has it): then pip is
# fetched, its hash is checked, and it installs itself.
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

# Python 3.11 by uv, where the machine's own is too new, too old or missing.
fetch_python() {
    local uv=uv
    command -v uv >/dev/null || {
        make_venv python3 "$work/uv" && "$work/uv/bin/pip" install --quiet uv && uv=$work/uv/bin/uv
    } 2>/dev/null || return
    "$uv" venv --quiet --seed --python 3.11 "$venv" 2>/dev/null
}

# Whether .venv can be kept: its Python fits and is the one asked for, and it has not been moved since it was made.
keep_venv() {
    fits "$venv/bin/python" && grep -qsF "$venv/bin/" "$venv/bin/pip" &&
        { [ -z "${PYTHON:-}" ] || [ "$(version "$PYTHON")" = "$(version "$venv/bin/python")" ]; }
}

ensure_venv() {
    local python
    ! keep_venv || return 0
    if [ -e "$venv" ] && [ ! -e "$log" ] && [ -n "$(ls -A "$venv")" ]; then
        die "$venv is in the way (Python $(version "$venv/bin/python")): remove it, or set VENV to another folder"
    fi
    rm -rf "$venv"
    python=${PYTHON:-$(find_python || true)}
    if [ -n "$python" ]; then
        fits "$python" || die "PYTHON=$python is Python $(version "$python"), but MXNet 1.9.1 runs on 3.8 to 3.12"
        echo "$venv: Python $(version "$python") ($python)"
        make_venv "$python" "$venv" || die "$python cannot make an environment: apt-get install python3-venv"
    else
        echo "$venv: no Python 3.8 to 3.12 here (python3 is $(version python3)); uv fetches one"
        fetch_python || die "no Python 3.8 to 3.12, and none could be fetched: install one (apt-get, pyenv, conda; 3.11 \
is best) and set PYTHON to it"
    fi
    : >"$log"
}

# MXNet cannot be imported beside a newer numpy, and says so in a way that helps nobody.
check_numpy() {
    local numpy
    for numpy in "$venv"/lib/python3.*/site-packages/numpy-*.dist-info; do
        case $numpy in
            */numpy-\**) ;;    # none yet
            */python3.12/*/numpy-1.26.4.* | */python3.[89]/*/numpy-1.23.* | */python3.1[01]/*/numpy-1.23.*) ;;
            *) die "$(basename "$numpy" .dist-info) is in $venv, which MXNet 1.9.1 cannot be imported with:" \
                "$venv/bin/pip install '$("$venv/bin/python" -c 'import sys
print("numpy==1.26.4" if sys.version_info >= (3, 12) else "numpy<1.24")')'" ;;
        esac
    done
}

# ---- Horovod --------------------------------------------------------------------------------------------------------

# The requirement for a package as setup.py has it, so that every version is written down once.
pin() { sed -n "s/.*\"\($1==[^\"]*\)\".*/\1/p" setup.py; }

# Kind and version of the MPI that Horovod will be linked with, e.g. openmpi-4.1.4.
mpi() {
    local says
    command -v mpicxx >/dev/null || { echo nompi; return; }
    says=$(mpicxx --showme:version 2>/dev/null || mpicxx -v 2>&1 || true)
    case $says in
        *'Open MPI '*) says=${says#*Open MPI }; echo "openmpi-${says%% *}" ;;
        *'MPICH version '*) says=${says#*MPICH version }; echo "mpich-${says%%[!0-9.]*}" ;;
        *) echo "mpi-$(echo "$says" | cksum | cut -d ' ' -f 1)" ;;
    esac
}

# Everything that the compiled wheel depends on, as a folder's name.
wheel_key() {
    local mxnet=$1 horovod=$2 mpi=$3 gpu
    gpu=$(gpu_operations "$mxnet")
    "$venv/bin/python" -c '
import platform, sys
print("cp%d%d" % sys.version_info[:2], *sys.argv[1:], platform.machine(), "-".join(platform.libc_ver()), sep="_")
' "${mxnet/==/-}" "${horovod/==/-}+$mended" "$mpi" ${gpu:+"$gpu"}
}

# What Horovod reduces with on GPUs, if anything: NCCL where NVIDIA's package of it comes with MXNet.
gpu_operations() {
    local mxnet=$1
    case $mxnet in
        mxnet-cu112==*) echo "${HOROVOD_GPU_OPERATIONS-NCCL}" ;;
        *) echo "${HOROVOD_GPU_OPERATIONS-}" ;;
    esac
}

# NVIDIA's package has a NCCL without the name that linkers look for; running, Horovod has the one that MXNet loads.
show_nccl() {
    local nccl=("$venv"/lib/python3.*/site-packages/nvidia/nccl)
    [ -d "${nccl[0]}" ] || return 0
    mkdir "$work/nccl"
    ln -s "${nccl[0]}/lib/libnccl.so.2" "$work/nccl/libnccl.so"
    export HOROVOD_NCCL_INCLUDE=${nccl[0]}/include HOROVOD_NCCL_LIB=$work/nccl HOROVOD_NCCL_LINK=SHARED
}

# In 0.28.1 a process set, and so every run, has Gloo listen on whatever address the machine's name resolves to, not on
# the interface that horovodrun has found. That is a segmentation fault where the name resolves to nothing, and no way
# in for the other hosts where it resolves to 127.0.1.1, as Debian has it.
#
# And a broadcast is freed, its name with it, as soon as it is over, while the thread that has asked for it may still be
# logging that name: a segmentation fault of a rank now and then. So the name that it is given is a copy.
mend_horovod() {
    local gloo=$1/horovod/common/gloo/gloo_context.cc mxnet=$1/horovod/mxnet/mpi_ops.cc
    local line='  gloo_iface_ = global_context.gloo_iface_;' name='ops_param->op_names\[0\]'
    sed -i "/::InitializeForProcessSet(/,/^}/ s/^  attr device_attr;/$line\n&/" "$gloo"
    sed -i "s/$name/std::string(&)/" "$mxnet"
    grep -qxF "$line" "$gloo" && [ "$(grep -c "std::string($name)" "$mxnet")" = 4 ]
}

need_compiler() {
    local mxnet=$1
    command -v "${CXX:-g++}" >/dev/null || die "no C++ compiler (${CXX:-g++}) to build Horovod: apt-get install g++"
    command -v make >/dev/null || die "no make to build Horovod: apt-get install make"
    [[ $mxnet != *-cu* ]] || command -v nvcc >/dev/null ||
        die "no nvcc to build Horovod for $mxnet: install that CUDA's toolkit, or leave Horovod out (see $0)"
    [[ $venv != *[[:space:]]* ]] || die "$venv: Horovod's build breaks on spaces; set VENV to a folder without"
}

# build_horovod HOROVOD MPI GPU: leaves the wheel in $work.
build_horovod() {
    local horovod=$1 mpi=$2 gpu=$3 source=$work/${1/==/-} jobs free_gib
    jobs=$(nproc)
    free_gib=$(awk '/MemAvailable/ { print int($2 / 2^20) + 1 }' /proc/meminfo)
    [ "$jobs" -le "$free_gib" ] || jobs=$free_gib

    step "fetching cmake" "$venv/bin/pip" install --target "$work/cmake" 'cmake<4'    # 4 refuses Gloo's CMakeLists.txt
    step "fetching Horovod" "$venv/bin/pip" download --no-deps --no-binary :all: --no-build-isolation \
        --dest "$work" "$horovod"
    tar -xzf "$source.tar.gz" -C "$work"
    mend_horovod "$source" || die "$horovod is not the source that mend_horovod knows"
    sed -i 's/"-O2" "-O3"/"-O2 -g" "-O3"/' "$source/CMakeLists.txt"    # no debug symbols: a third less to do
    [ "$gpu" != NCCL ] || show_nccl
    show='^\[' step "compiling Horovod" env \
        MAKEFLAGS="-j${JOBS:-$jobs}" \
        HOROVOD_CMAKE="$work/cmake/cmake/data/bin/cmake" \
        HOROVOD_LOCAL_VERSION=$mended \
        HOROVOD_WITH_MXNET=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITH_GLOO=1 \
        "HOROVOD_WITH$([ "$mpi" != nompi ] || echo OUT)_MPI=1" ${gpu:+"HOROVOD_GPU_OPERATIONS=$gpu"} \
        "$venv/bin/pip" wheel -v --no-cache-dir --no-deps --no-build-isolation --wheel-dir "$work" "$source"
}

# Installs a wheel of Horovod and loads its library.
try_wheel() {
    "$venv/bin/pip" install --force-reinstall --no-deps "$1" &&
        "$venv/bin/python" -c 'import dist_ft, horovod.mxnet as hvd; assert hvd.gloo_built()'
} >>"$log" 2>&1

# install_horovod KEPT HOROVOD MPI GPU: from the folder KEPT if it is there and loads, and into it if it can be written.
install_horovod() {
    local kept=$1 horovod=$2 mpi=$3 gpu=$4 wheel
    for wheel in "$kept"/*.whl; do
        [ ! -e "$wheel" ] || ! try_wheel "$wheel" || { echo "Horovod from $wheel"; return; }
    done
    build_horovod "$horovod" "$mpi" "$gpu"
    wheel=$(echo "$work"/horovod-*.whl)
    try_wheel "$wheel" || die "Horovod was built but does not load: see the end of $log"
    if { mkdir -p "$kept" && cp "$wheel" "$kept/.$$" && mv "$kept/.$$" "$kept/${wheel##*/}"; } 2>/dev/null; then
        echo "Horovod kept for the next time as $kept/${wheel##*/}"
    else
        echo "Horovod could not be kept for the next time in $kept"
    fi
}

# ---- all of it ------------------------------------------------------------------------------------------------------

# libmxnet.so looks for CUDA in its own folder first, so that is where NVIDIA's packages are shown to it.
link_cuda() {
    local site=("$venv"/lib/python3.*/site-packages)
    ln -sfr "${site[0]}"/nvidia/*/lib/*.so.* "${site[0]}/mxnet/"
}

# On Python 3.12 MXNet needs dist_ft/compat.py, and in processes of horovodrun's that know nothing of dist_ft.
hook_compat() {
    local packages=$venv/lib/python3.12/site-packages
    [ ! -d "$packages" ] || echo 'import dist_ft.compat' >"$packages/dist_ft_compat.pth"
}

# has_all WORDS WORD...: whether every WORD is among the WORDS.
has_all() {
    local words=" $1 " word; shift
    for word; do [[ $words == *" $word "* ]] || return 1; done
}

install() {
    local mpi mxnet kept='' key old_key='' old_extras='' extra extras=''
    [ $# -gt 0 ] || set -- cpu horovod board
    [ "$(uname -sm)" = "Linux x86_64" ] || die "MXNet 1.9.1 needs Linux on x86-64, and this is $(uname -sm)"
    ensure_venv
    check_numpy

    # The stamp holds a key of what was installed, then the extras.
    mpi=$(mpi)
    key=$(cat setup.py launch/install.sh | cksum | tr ' ' -)-$mpi
    [ ! -e "$stamp" ] || read -r old_key old_extras <"$stamp"
    if [ "$key" = "$old_key" ]; then
        ! has_all "$old_extras" "$@" || return 0
        # shellcheck disable=SC2086    # they are words
        set -- $old_extras "$@"
    fi
    rm -f "$stamp"

    case " $* " in
        *' cu112 '*) mxnet=$(pin mxnet-cu112) ;;
        *' cu100 '*) mxnet=$(pin mxnet-cu100) ;;
        *) mxnet=$(pin mxnet) ;;
    esac
    if has_all "$*" horovod; then
        kept=$wheels/$(wheel_key "$mxnet" "$(pin horovod)" "$mpi")
        compgen -G "$kept/*.whl" >/dev/null || need_compiler "$mxnet"
    fi

    # Horovod is not pip's to build, and its setup.py wants the last four of the first step.
    for extra; do [ "$extra" = horovod ] || extras+=,$extra; done
    [ "$mpi" = nompi ] || extras+=,mpi
    step "setuptools" "$venv/bin/pip" install 'pip>=22' 'setuptools>=64,<70' wheel cloudpickle packaging psutil pyyaml
    step "MXNet and the rest" "$venv/bin/pip" install --no-build-isolation --use-pep517 -e ".[${extras#,}]"
    step "gluoncv" "$venv/bin/pip" install --no-deps "$(pin gluoncv)"
    hook_compat
    ! has_all "$*" cu112 || link_cuda
    [ -z "$kept" ] || install_horovod "$kept" "$(pin horovod)" "$mpi" "$(gpu_operations "$mxnet")"
    check_numpy
    echo "$key $*" >"$stamp"
}

[ "${BASH_SOURCE[0]}" = "$0" ] || return 0    # sourced, as the tests do: functions only

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PROGRESS_BAR=off
install "$@"
