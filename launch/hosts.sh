#!/usr/bin/env bash
# Fine-tunes on hosts that ssh reaches without a password: horovodrun, with Gloo or MPI.
#
#   launch/hosts.sh [--mpi] [OPTION...] HOSTS [FLAGS OF dist_ft.train]
#   launch/hosts.sh host1:4,host2:4 --data /nfs/food5
#   launch/hosts.sh --interface eth0 --port 2222 --key ~/.ssh/cluster hosts.txt --data /nfs/food5
#
# HOSTS is that list, or a file with a line "host1 slots=4" for each.
#   --mpi              by MPI instead of Gloo; Horovod has to be built with it
#   --interface NAME   the network between the hosts    (default: that by which this host reaches the others)
#   --port, --key      of ssh
#   --dry-run          print the command, run nothing
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/where.sh"

controller=--gloo oob=''
[ "${1:-}" != --mpi ] || { controller=--mpi; shift; }
read_where "$@"

if [ -z "$dry_run" ]; then
    check_settings "${flags[@]}"
    # horovodrun's own search listens on all networks, and puts the key to that into command lines.
    [ -n "$interface" ] || interface=$(find_interface)
    check_hosts
    hide_environment
fi

# By MPI a host that no longer answers is given up after 20 s; mpirun would wait for it for ever, and would also try the
# other networks for its own messages.
mca="-mca oob_tcp_keepalive_time 5 -mca oob_tcp_keepalive_intvl 5 -mca oob_tcp_keepalive_probes 3"
[ $controller = --gloo ] || oob="--mpi-args=$mca${interface:+ -mca oob_tcp_if_include $interface}"

# The cache would have an hour-old answer to which network is up.
become env "PATH=$launch/ssh:$PATH" "$(find_horovodrun)" --disable-cache -np "$size" -H "$hosts" "$controller" \
    ${port:+-p "$port"} ${key:+-i "$key"} ${interface:+--network-interface "$interface"} \
    ${oob:+"$oob"} "$python" -m dist_ft.train "${flags[@]}"
