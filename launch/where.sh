# shellcheck shell=bash
# Sourced by the launchers: the Python that runs, the hosts that it runs on, and whether they are fit to.

launch=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dry_run='' interface='' port='' key=''    # what the options say
asked=''                                  # the list, file or program that says which hosts
hosts='' size=0                           # host1:4,host2:4, and the processes on all of them
flags=()                                  # what is left for dist_ft.train

die() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; exit 2; }

# Prints the comment that a launcher begins with.
usage() { sed -n '2,/^[^#]/ s/^# \{0,1\}//p' "$0"; exit; }

# Prints where a program is: in .venv, which need not be activated, else on the PATH.
find_program() {
    local venv=${VENV:-${launch%/*}/.venv}
    if [ -x "$venv/bin/$1" ]; then echo "$venv/bin/$1"; else command -v "$1"; fi
}

python=$(find_program python || find_program python3) || die "no Python here: make install"

find_horovodrun() { find_program horovodrun || die "no horovodrun here to start processes with: make install"; }

# read_where WORD...: the options, then the hosts; what follows is left in flags.
read_where() {
    while [ $# -gt 0 ]; do
        case $1 in
            --dry-run) dry_run=yes ;;
            --interface | --port | --key)
                [ $# -gt 1 ] || die "$1 needs a value"
                printf -v "${1#--}" %s "$2"
                shift ;;
            --help | -h) usage ;;
            -*) die "$1: no such option here; those of dist_ft.train come after the hosts" ;;
            *) break ;;
        esac
        shift
    done
    [ $# -gt 0 ] || die "which hosts? host1:4,host2:4, or a file with a line 'host1 slots=4' for each"
    asked=$1
    read_hosts "$asked"
    # shellcheck disable=SC2034    # the launchers pass them on
    flags=("${@:2}")
}

# read_hosts LIST|FILE|PROGRAM: sets hosts and size.
read_hosts() {
    local host
    hosts=$1
    [ ! -f "$1" ] || hosts=$(
        { if [ -x "$1" ]; then "$(realpath "$1")"; else cat "$1"; fi; } |
            sed -E 's/#.*//; s/[[:space:]]+slots *= */:/' |
            awk 'NF { print $1 ($1 ~ /:/ ? "" : ":1") }' | paste -sd ,
    )
    [[ $hosts =~ ^[[:alnum:]_.-]+:[1-9][0-9]*(,[[:alnum:]_.-]+:[1-9][0-9]*)*$ ]] ||
        die "$1: neither a file of hosts nor of the form host1:4,host2:4"
    for host in ${hosts//,/ }; do size=$((size + ${host##*:})); done
}

# Prints the interface by which this host reaches the others; nothing where there are no others.
find_interface() {
    local host names=()
    for host in ${hosts//,/ }; do names+=("${host%:*}"); done
    "$python" -c 'if True:
        import sys
        from dist_ft import errors
        from dist_ft.distributed import network_interfaces
        try:
            print(network_interfaces.interface_towards(sys.argv[1:]))
        except errors.UserError as error:
            print(f"hosts: {error}", file=sys.stderr)
            sys.exit(2)
    ' "${names[@]}"
}

# Horovodrun writes all of its environment into the ranks' command lines, where any user of the hosts can read it: only
# what a run may need is left there.
hide_environment() {
    local name
    for name in $(compgen -e); do
        case $name in
            PATH | HOME | USER | LOGNAME | SHELL | TERM | TZ | TMPDIR | LANG | LC_* | XDG_* | SSH_AUTH_SOCK) ;;
            PYTHON* | VIRTUAL_ENV | LD_* | MALLOC_* | CUDA_* | NVIDIA_* | OMP_* | GOMP_* | KMP_* | MKL_* | DNNL_*) ;;
            ONEDNN_* | MXNET_* | HOROVOD_* | NCCL_* | OMPI_* | UCX_* | DIST_FT_* | SLURM_* | LSB_* | *_proxy | *_PROXY) ;;
            *) export -n "${name?}" ;;
        esac
    done
}

# Looks at every host at once, since what the launchers themselves say of a dead one is late and dark.
check_hosts() {
    local host checks=() check bad=0
    for host in ${hosts//,/ }; do check_host "${host%:*}" & checks+=($!); done
    for check in "${checks[@]}"; do wait "$check" || bad=1; done
    [ $bad = 0 ] || exit 1
}

check_host() {
    local reach=("$launch/ssh/ssh" ${port:+-p "$port"} ${key:+-i "$key"} "$1") status=0
    ! is_here "$1" || reach=(sh -c)
    "${reach[@]}" "cd $(printf %q "$PWD") || exit 11; [ -x $(printf %q "$python") ] || exit 12
        [ -z '$interface' ] || [ -e '/sys/class/net/$interface' ] || { ls -m /sys/class/net; exit 13; }
    " </dev/null >&2 || status=$?
    case $status in
        0) ;;
        11) die "$1: there is no folder $PWD; the hosts share it, or have a copy at the same place" ;;
        12) die "$1: there is no $python; install there too, at the same place" ;;
        13) die "$1: there is no network interface $interface, but those above" ;;
        *) die "$1: ssh does not come through, without a password and within 10 s: ${reach[*]} true;" \
            "see launch/README.md" ;;
    esac
}

# Whether a host is this one: nowhere else could one listen on its address.
is_here() { "$python" -c 'import socket, sys; socket.socket().bind((sys.argv[1], 0))' "$1" 2>/dev/null; }

# A setting that cannot be used is told once, before any process is started, with exit status 2.
check_settings() {
    local says
    says=$("$python" -c 'from dist_ft import cli; cli.parse(); print("usable")' "$@") || exit
    [ "$says" = usable ] || { printf '%s\n' "$says"; exit; }    # --help
}

# Becomes the command; with --dry-run it is only printed, as one can paste it.
become() {
    local word line=''
    [ -n "$dry_run" ] || exec "$@"
    for word; do
        [[ $word =~ ^[[:alnum:]_.,:=/^+-]+$ ]] || word=${word@Q}
        line+=" ${word//"$PATH"/\$PATH}"
    done
    echo "${line# }"
}
