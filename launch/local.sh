#!/usr/bin/env bash
# Fine-tunes on this machine: one process for each GPU, or one for all of the CPU.
#
#   launch/local.sh [--dry-run] [PROCESSES] [FLAGS OF dist_ft.train]
#   launch/local.sh --data food5
#   launch/local.sh 4 --data food5      four processes, which share the cores or have a GPU each
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/where.sh"

num_gpus() {
    local shown=${CUDA_VISIBLE_DEVICES-all}
    case $shown in
        all) { nvidia-smi --list-gpus 2>/dev/null || true; } | grep -c '^GPU ' || true ;;
        *) tr , '\n' <<<"$shown" | grep -c . || true ;;
    esac
}

[ "${1:-}" != --dry-run ] || { dry_run=yes; shift; }
case ${1:-} in
    -h | --help) usage ;;
    [1-9]*) size=$1; shift ;;
    *) size=$(num_gpus) ;;
esac
[[ $size =~ ^[0-9]+$ ]] || die "$size: not a number of processes"
[ -n "$dry_run" ] || check_settings "$@"

# One process needs no Horovod. 127.0.0.1: not every machine has a line for localhost in /etc/hosts.
launcher=()
[ "$size" -le 1 ] || launcher=("$(find_horovodrun)" --disable-cache -np "$size" -H "127.0.0.1:$size" --gloo)
become "${launcher[@]}" "$python" -m dist_ft.train "$@"
