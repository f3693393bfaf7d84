#!/usr/bin/env bash
# Fine-tunes on a changing set of hosts: the run continues when hosts fail, and uses hosts that are added.
#
#   launch/elastic.sh [--min N] [--max N] [OPTION...] HOSTS [FLAGS OF dist_ft.train]
#   launch/elastic.sh host1:4,host2:4 --data /nfs/food5
#   launch/elastic.sh --min 4 --max 16 --key ~/.ssh/cluster hosts.txt --data /nfs/food5
#
# HOSTS is such a list; or a file with one line per host, host1 slots=4, which may be edited during the run; or a
# program that prints one host1:4 per line and is called every second.
#   --min, --max       number of processes; with fewer than the minimum the run waits, for at most ten minutes
#                      (default: at least 1, no maximum)
#   --interface NAME   network interface between the hosts    (default: the one that routes to the other hosts)
#   --port, --key      port and private key for ssh
#   --dry-run          print the command without running it
#
# A failed host is retried after 30 s, then at growing intervals. If no host is left, for example when the only host
# loses a process, the run restarts from its last saved state, at most three times.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ "${1:-}" != --list ] || { read_hosts "$2"; tr , '\n' <<<"$hosts"; exit; }    # Horovod's host discovery
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
parse_arguments "${options[@]}" "$@"
if [ -z "$dry_run" ]; then
    check_settings "${train_flags[@]}"
    [ -n "$interface" ] || interface=$(find_interface)
    check_hosts
    unexport_private_variables
fi
[ -n "$interface" ] || [[ $hosts == *,* ]] || ! is_local "${hosts%:*}" || interface=lo

# Gloo's timeout must exceed the start-up time of a new process, including a cold start from a shared folder: the
# running processes wait for it and fail if it is late. It also limits the wait for a host that stops responding.
run_command "$launch_dir/restart.sh" --times 3 --pause 5 env "PATH=$launch_dir/ssh:$PATH" \
    "$(find_horovodrun)" --disable-cache --gloo --gloo-timeout-seconds 60 --blacklist-cooldown-range 30 3600 \
    -np "$min" --min-np "$min" ${max:+--max-np "$max"} \
    --host-discovery-script "${0@Q} --list ${hosts_source@Q}" \
    ${port:+-p "$port"} ${key:+-i "$key"} ${interface:+--network-interface "$interface"} \
    "$python" -m dist_ft.train --elastic "${train_flags[@]}"
