#!/usr/bin/env bash
# Fine-tunes on hosts that ssh reaches without a password, with horovodrun over Gloo or MPI.
#
#   launch/hosts.sh [--mpi] [OPTION...] HOSTS [FLAGS OF dist_ft.train]
#   launch/hosts.sh host1:4,host2:4 --data /nfs/food5
#   launch/hosts.sh --interface eth0 --port 2222 --key ~/.ssh/cluster hosts.txt --data /nfs/food5
#
# HOSTS is such a list, or a file with one line per host: host1 slots=4
#   --mpi              use MPI instead of Gloo; Horovod must have been built with MPI
#   --interface NAME   network interface between the hosts    (default: the one that routes to the other hosts)
#   --port, --key      port and private key for ssh
#   --dry-run          print the command without running it
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

controller=--gloo mpi_args=''
[ "${1:-}" != --mpi ] || { controller=--mpi; shift; }
parse_arguments "$@"

if [ -z "$dry_run" ]; then
    check_settings "${train_flags[@]}"
    # horovodrun's own search would listen on all networks, with its secret key in the command lines.
    [ -n "$interface" ] || interface=$(find_interface)
    check_hosts
    unexport_private_variables
fi

# With MPI the keepalive settings end the job 20 s after a host stops responding; by default mpirun waits forever.
# oob_tcp_if_include keeps mpirun's own messages on the chosen interface.
keepalive="-mca oob_tcp_keepalive_time 5 -mca oob_tcp_keepalive_intvl 5 -mca oob_tcp_keepalive_probes 3"
[ $controller = --gloo ] || mpi_args="--mpi-args=$keepalive${interface:+ -mca oob_tcp_if_include $interface}"

# horovodrun's cache would remember for an hour which interfaces are up.
run_command env "PATH=$launch_dir/ssh:$PATH" "$(find_horovodrun)" --disable-cache \
    -np "$size" -H "$hosts" "$controller" \
    ${port:+-p "$port"} ${key:+-i "$key"} ${interface:+--network-interface "$interface"} \
    ${mpi_args:+"$mpi_args"} "$python" -m dist_ft.train "${train_flags[@]}"
