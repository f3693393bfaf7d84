#!/usr/bin/env bash
# Restarts a command until it succeeds. An interrupted run resumes from its last checkpoint.
#
#   launch/restart.sh [--times N] [--pause SECONDS] [--dry-run] COMMAND...
#   launch/restart.sh launch/hosts.sh host1:4,host2:4 --data /nfs/food5
#
# Restarts at most N times (default 10). The first pause is SECONDS long (default 10); it doubles, up to ten minutes.
# Does not restart after a usage error (exit status 2), Ctrl-C (130), or if the command does not exist (126, 127).
# Forwards SIGTERM and SIGINT to the command and does not restart it. A signal that was ignored at the start stays
# ignored, as in every shell script: SIGHUP under nohup, SIGINT in the background of another script.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

times=10 pause=10
while [[ ${1:-} == -* ]]; do
    case $1 in
        --dry-run) dry_run=yes ;;
        --times | --pause)
            [[ ${2:-} =~ ^[0-9]+$ ]] || die "$1 needs a number"
            printf -v "${1#--}" %s "$2"
            shift ;;
        --help | -h) usage ;;
        *) die "unknown option $1" ;;
    esac
    shift
done
[ $# -gt 0 ] || die "no command given"
[[ " $* " != *" --resume never "* && " $* " != *" --resume=never "* ]] ||
    die "--resume never would start over at each restart: remove it, or choose another --out"
[ -z "$dry_run" ] || { run_command "$@"; exit; }

set -m    # job control: without it bash starts background commands with SIGINT ignored
signal='' child=''
forward() { signal=$1; [ -z "$child" ] || kill -s "$1" "$child" 2>/dev/null; }
trap 'forward TERM' TERM
trap 'forward INT' INT

for ((restarts = 0; ; restarts++)); do
    "$@" &
    child=$!
    [ -z "$signal" ] || kill -s "$signal" "$child"    # the signal arrived before the child started
    while wait "$child"; status=$?; kill -0 "$child" 2>/dev/null; do :; done    # a trap interrupts wait
    child=''
    case $status in 0 | 2 | 126 | 127 | 130) exit $status ;; esac
    [ -z "$signal" ] && [ $restarts -lt "$times" ] || exit $status
    printf 'restart: exit status %s; restarting in %s s (%s of %s)\n' $status "$pause" $((restarts + 1)) "$times" >&2
    sleep "$pause" &
    wait $!
    [ -z "$signal" ] || exit $status
    pause=$((pause < 300 ? 2 * pause : 600))
done
