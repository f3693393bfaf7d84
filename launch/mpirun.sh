#!/usr/bin/env bash
# Fine-tunes on hosts that Open MPI reaches by ssh, or by Slurm inside a Slurm job, with plain mpirun.
#
#   launch/mpirun.sh [OPTION...] HOSTS [FLAGS OF dist_ft.train]
#   launch/mpirun.sh host1:4,host2:4 --data /nfs/food5
#
# HOSTS is such a list, or a file with one line per host: host1 slots=4
#   --interface NAME   network interface between the hosts    (default: all except those of containers)
#   --port, --key      port and private key for ssh
#   --dry-run          print the command without running it
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse_arguments "$@"
[ -n "$dry_run" ] || check_settings "${train_flags[@]}"
[ -n "$dry_run${SLURM_JOB_ID:-}" ] || check_hosts

# docker0 has the same address on every host: Open MPI would try to connect through it and hang.
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

# odls_base_sigkill_timeout: mpirun forwards SIGTERM after this many seconds and kills after as many again, which must
# be enough to save a checkpoint. The keepalive settings end the job 20 s after a host stops responding.
ssh_args="${port:+-p $port }${key:+-i $key}"
run_command mpirun -np "$size" -H "$hosts" -bind-to none -map-by slot -mca pml ob1 -mca btl ^openib "${networks[@]}" \
    -mca plm_rsh_agent "$launch_dir/ssh/ssh" ${ssh_args:+-mca plm_rsh_args "$ssh_args"} \
    -mca odls_base_sigkill_timeout 5 \
    -mca oob_tcp_keepalive_time 5 -mca oob_tcp_keepalive_intvl 5 -mca oob_tcp_keepalive_probes 3 \
    "${exported[@]}" "$python" -m dist_ft.train "${train_flags[@]}"
