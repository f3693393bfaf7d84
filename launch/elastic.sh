#!/usr/bin/env bash
# Fine-tunes on hosts that come and go: the run outlives those that are lost, and takes in new ones.
#
#   launch/elastic.sh [--min N] [--max N] [OPTION...] HOSTS [FLAGS OF dist_ft.train]
#   launch/elastic.sh host1:4,host2:4 --data /nfs/food5
#   launch/elastic.sh --min 4 --max 16 --key ~/.ssh/cluster hosts.txt --data /nfs/food5
#
# HOSTS is that list; or a file with a line "host1 slots=4" for each, which can be edited while the run goes on; or a
# program that prints such a list in lines, host1:4, and is asked every second.
#   --min, --max       processes: with fewer the run waits, ten minutes at most    (default: 1, and no limit)
#   --interface NAME   the network between the hosts    (default: that by which this host reaches the others)
#   --port, --key      of ssh
#   --dry-run          print the command, run nothing
#
# A host that failed is tried again half a minute later, then less and less often. Where nothing is left to go on with,
# as on one host that lost a process, the run starts again from what was saved of it, three times at most.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/where.sh"

[ "${1:-}" != --list ] || { read_hosts "$2"; tr , '\n' <<<"$hosts"; exit; }    # what Horovod asks
min=1 max='' options=()
while [[ ${1:-} == -* ]]; do
    case $1 in
        --min | --max)
            [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || die "$1 needs a number"
            printf -v "${1#--}" %s "$2"
            shift ;;
        --interface | --port | --key) options+=("$1" "${2:-}"); shift ;;
        *) options+=("$1") ;;
    esac
    shift
done
read_where "${options[@]}" "$@"
if [ -z "$dry_run" ]; then
    check_settings "${flags[@]}"
    [ -n "$interface" ] || interface=$(find_interface)
    check_hosts
    hide_environment
fi
[ -n "$interface" ] || [[ $hosts == *,* ]] || ! is_here "${hosts%:*}" || interface=lo

# The timeout has to outlast the start of a new process, cold and from a shared folder: those that run wait for it, and
# die where it comes too late. It is also when a host that no longer answers is given up.
become "$launch/restart.sh" --times 3 --pause 5 env "PATH=$launch/ssh:$PATH" "$(find_horovodrun)" --disable-cache \
    --gloo --gloo-timeout-seconds 60 --blacklist-cooldown-range 30 3600 \
    -np "$min" --min-np "$min" ${max:+--max-np "$max"} --host-discovery-script "${0@Q} --list ${asked@Q}" \
    ${port:+-p "$port"} ${key:+-i "$key"} ${interface:+--network-interface "$interface"} \
    "$python" -m dist_ft.train --elastic "${flags[@]}"
