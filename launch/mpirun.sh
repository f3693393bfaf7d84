#!/usr/bin/env bash
# Fine-tunes on hosts that Open MPI reaches: plain mpirun, by ssh, or by Slurm inside of a job of Slurm's.
#
#   launch/mpirun.sh [OPTION...] HOSTS [FLAGS OF dist_ft.train]
#   launch/mpirun.sh host1:4,host2:4 --data /nfs/food5
#
# HOSTS is that list, or a file with a line "host1 slots=4" for each.
#   --interface NAME   the network between the hosts    (default: any but those of containers)
#   --port, --key      of ssh
#   --dry-run          print the command, run nothing
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/where.sh"

read_where "$@"
[ -n "$dry_run" ] || check_settings "${flags[@]}"
[ -n "$dry_run${SLURM_JOB_ID:-}" ] || check_hosts

# A docker0 has the same address on every host: Open MPI would wait on it for ever.
networks=(-mca btl_tcp_if_exclude "lo,docker0,virbr0" -mca oob_tcp_if_exclude "docker0,virbr0")
[ -z "$interface" ] || networks=(
    -mca btl_tcp_if_include "$interface" -mca oob_tcp_if_include "$interface" -x "NCCL_SOCKET_IFNAME=$interface"
)

exported=(-x PYTHONUNBUFFERED=1)
for name in $(compgen -e); do
    case $name in
        PATH | PYTHONPATH | LD_LIBRARY_PATH | CUDA_VISIBLE_DEVICES | OMP_* | MXNET_* | HOROVOD_* | NCCL_* | DIST_FT_*)
            exported+=(-x "$name") ;;
    esac
done
[ "$(id -u)" != 0 ] || exported+=(--allow-run-as-root)

# mpirun lets this many seconds pass before it hands a SIGTERM on, and as many until it kills: a checkpoint is saved
# in them. A host that no longer answers is given up after 20 s.
ssh="${port:+-p $port }${key:+-i $key}"
become mpirun -np "$size" -H "$hosts" -bind-to none -map-by slot -mca pml ob1 -mca btl ^openib "${networks[@]}" \
    -mca plm_rsh_agent "$launch/ssh/ssh" ${ssh:+-mca plm_rsh_args "$ssh"} -mca odls_base_sigkill_timeout 5 \
    -mca oob_tcp_keepalive_time 5 -mca oob_tcp_keepalive_intvl 5 -mca oob_tcp_keepalive_probes 3 \
    "${exported[@]}" "$python" -m dist_ft.train "${flags[@]}"
