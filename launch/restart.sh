#!/usr/bin/env bash
# Runs a command until it ends well: what was cut short goes on from its last checkpoint.
#
#   launch/restart.sh [--times N] [--pause SECONDS] [--dry-run] COMMAND...
#   launch/restart.sh launch/hosts.sh host1:4,host2:4 --data /nfs/food5
#
# At most N times again (default 10), after a pause (10) that doubles up to ten minutes. Not after a usage error (exit
# status 2), Ctrl-C (130) or where there is no such command (126, 127); a SIGTERM is passed on and is the end.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/where.sh"

times=10 pause=10
while [[ ${1:-} == -* ]]; do
    case $1 in
        --dry-run) dry_run=yes ;;
        --times | --pause)
            [[ ${2:-} =~ ^[0-9]+$ ]] || die "$1 needs a number"
            printf -v "${1#--}" %s "$2"
            shift ;;
        --help | -h) usage ;;
        *) die "$1: no such option here" ;;
    esac
    shift
done
[ $# -gt 0 ] || die "which command?"
[[ " $* " != *" --resume never "* && " $* " != *" --resume=never "* ]] ||
    die "--resume never would begin anew each time: leave it out, or choose another --out"
[ -z "$dry_run" ] || { become "$@"; exit; }

set -m    # without job control a child of the shell's would not hear of SIGINT
stopped='' child=''
stop() { stopped=$1; [ -z "$child" ] || kill -s "$1" "$child" 2>/dev/null; }
trap 'stop TERM' TERM
trap 'stop INT' INT

for ((again = 0; ; again++)); do
    "$@" &
    child=$!
    [ -z "$stopped" ] || kill -s "$stopped" "$child"    # it came while there was no child yet
    while wait "$child"; status=$?; kill -0 "$child" 2>/dev/null; do :; done    # a trap interrupts the wait
    child=''
    case $status in 0 | 2 | 126 | 127 | 130) exit $status ;; esac
    [ -z "$stopped" ] && [ $again -lt "$times" ] || exit $status
    printf 'restart: exit status %s; again in %s s (%s of %s)\n' $status "$pause" $((again + 1)) "$times" >&2
    sleep "$pause" &
    wait $!
    [ -z "$stopped" ] || exit $status
    pause=$((pause < 300 ? 2 * pause : 600))
done
