# shellcheck shell=bash
# Functions that the launchers share: options, host lists, checks of the hosts, and running the command.

launch_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dry_run='' interface='' port='' key=''    # values of the options
hosts_source=''                           # the HOSTS argument: a list, a file or a program
hosts='' size=0                           # host1:4,host2:4 and the total number of processes
train_flags=()                            # flags of dist_ft.train

die() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; exit 2; }

# Prints the comment at the top of the launcher.
usage() { sed -n '2,/^[^#]/ s/^# \{0,1\}//p' "$0"; exit; }

# Prints the path of a program: from .venv, which need not be activated, otherwise from PATH.
find_program() {
    local venv=${VENV:-${launch_dir%/*}/.venv}
    if [ -x "$venv/bin/$1" ]; then echo "$venv/bin/$1"; else command -v "$1"; fi
}

python=$(find_program python || find_program python3) || die "Python is not installed: run make install"

find_horovodrun() { find_program horovodrun || die "horovodrun is not installed: run make install"; }

# parse_arguments WORD...: options, then the hosts; the rest becomes train_flags.
parse_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
            --dry-run) dry_run=yes ;;
            --interface | --port | --key)
                [ $# -gt 1 ] || die "$1 needs a value"
                printf -v "${1#--}" %s "$2"
                shift ;;
            --help | -h) usage ;;
            -*) die "unknown option $1; flags of dist_ft.train must follow the hosts" ;;
            *) break ;;
        esac
        shift
    done
    [ $# -gt 0 ] || die "no hosts given: use host1:4,host2:4 or a file with lines such as 'host1 slots=4'"
    hosts_source=$1
    read_hosts "$hosts_source"
    # shellcheck disable=SC2034    # used by the launchers
    train_flags=("${@:2}")
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
        die "invalid hosts '$1': use host1:4,host2:4 or a file with lines such as 'host1 slots=4'"
    for host in ${hosts//,/ }; do size=$((size + ${host##*:})); done
}

# Prints the interface that routes to the other hosts; nothing if there are no other hosts.
find_interface() {
    local host names=()
    for host in ${hosts//,/ }; do names+=("${host%:*}"); done
    "$python" -c 'if True:
        import sys
        from dist_ft import errors
        from dist_ft.distributed import network_interfaces
        try:
            print(network_interfaces.interface_to(sys.argv[1:]))
        except errors.UserError as error:
            print(f"hosts: {error}", file=sys.stderr)
            sys.exit(2)
    ' "${names[@]}"
}

# horovodrun copies its whole environment into the command lines of the ranks, which every user of the hosts can read.
# Export only the variables that a run may need.
unexport_private_variables() {
    local name
    for name in $(compgen -e); do
        case $name in
            PATH | HOME | USER | LOGNAME | SHELL | TERM | TZ | TMPDIR | LANG | LC_* | XDG_* | SSH_AUTH_SOCK) ;;
            PYTHON* | VIRTUAL_ENV | LD_* | MALLOC_* | CUDA_* | NVIDIA_* | OMP_* | GOMP_* | KMP_* | MKL_* | DNNL_*) ;;
            ONEDNN_* | MXNET_* | HOROVOD_* | NCCL_* | OMPI_* | UCX_* | DIST_FT_* | SLURM_* | LSB_*) ;;
            *_proxy | *_PROXY) ;;
            *) export -n "${name?}" ;;
        esac
    done
}

# Checks all hosts in parallel. The launchers' own errors for an unreachable host are late and do not name the cause.
check_hosts() {
    local host checks=() check failed=0
    for host in ${hosts//,/ }; do check_host "${host%:*}" & checks+=($!); done
    for check in "${checks[@]}"; do wait "$check" || failed=1; done
    [ $failed = 0 ] || exit 1
}

check_host() {
    local shell=("$launch_dir/ssh/ssh" ${port:+-p "$port"} ${key:+-i "$key"} "$1") status=0
    ! is_local "$1" || shell=(sh -c)
    "${shell[@]}" "cd $(printf %q "$PWD") || exit 11; [ -x $(printf %q "$python") ] || exit 12
        [ -z '$interface' ] || [ -e '/sys/class/net/$interface' ] || { ls -m /sys/class/net; exit 13; }
    " </dev/null >&2 || status=$?
    case $status in
        0) ;;
        11) die "$1: folder $PWD does not exist: share it between the hosts, or copy it to the same path" ;;
        12) die "$1: $python does not exist: install dist_ft at the same path on every host" ;;
        13) die "$1: network interface $interface does not exist: choose one of those listed above" ;;
        *) die "$1: ssh without a password failed or took more than 10 s: ${shell[*]} true (see docs/clusters.md)" ;;
    esac
}

# True if a host is this machine: only then can a socket be bound to its address.
is_local() { "$python" -c 'import socket, sys; socket.socket().bind((sys.argv[1], 0))' "$1" 2>/dev/null; }

# Reports invalid flags of dist_ft.train once, before any process starts, with exit status 2.
check_settings() {
    local output
    output=$("$python" -c 'from dist_ft import settings_flags; settings_flags.parse(); print("valid")' "$@") || exit
    [ "$output" = valid ] || { printf '%s\n' "$output"; exit; }    # --help
}

# Replaces this shell with the command; with --dry-run, prints it in a form that can be pasted into a shell.
run_command() {
    local word line=''
    [ -n "$dry_run" ] || exec "$@"
    for word; do
        [[ $word =~ ^[[:alnum:]_.,:=/^+-]+$ ]] || word=${word@Q}
        line+=" ${word//"$PATH"/\$PATH}"
    done
    echo "${line# }"
}
