#!/usr/bin/env bash
# Fine-tunes on this machine, with one process for each GPU, or one process on the CPU if there is no GPU.
#
#   launch/local.sh [--dry-run] [PROCESSES] [FLAGS OF dist_ft.train]
#   launch/local.sh --data food5
#   launch/local.sh 4 --data food5      four processes, which share the cores or use one GPU each
#
#   --dry-run    print the command without running it
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

num_gpus() {
    local visible=${CUDA_VISIBLE_DEVICES-all}
    case $visible in
        all) { nvidia-smi --list-gpus 2>/dev/null || true; } | grep -c '^GPU ' || true ;;
        *) tr , '\n' <<<"$visible" | grep -c . || true ;;
    esac
}

[ "${1:-}" != --dry-run ] || { dry_run=yes; shift; }
case ${1:-} in
    -h | --help) usage ;;
    [1-9]*) size=$1; shift ;;
    *) size=$(num_gpus) ;;
esac
[[ $size =~ ^[0-9]+$ ]] || die "invalid number of processes '$size'"
[ -n "$dry_run" ] || check_settings "$@"

# A single process does not need Horovod. 127.0.0.1, since some machines cannot resolve localhost.
launcher=()
[ "$size" -le 1 ] || launcher=("$(find_horovodrun)" --disable-cache -np "$size" -H "127.0.0.1:$size" --gloo)
run_command "${launcher[@]}" "$python" -m dist_ft.train "$@"
