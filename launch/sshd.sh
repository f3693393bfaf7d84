#!/usr/bin/env bash
# Makes a container a host that the launchers reach: an sshd that is this user's own, needs no root, and stays.
#
#   launch/sshd.sh [PORT]          default: 2222
#   launch/mpirun.sh --port 2222 host1:4,host2:4 --data DIR      on one of them
#
# ~/.ssh/authorized_keys says who gets in, by key alone and as this user. The host's own key is made anew at each start.
set -euo pipefail

case ${1:-2222} in
    -h | --help) sed -n '2,/^[^#]/ s/^# \{0,1\}//p' "$0"; exit ;;
    *[!0-9]*) echo "sshd: $1: not a port" >&2; exit 2 ;;
esac

keys=$(mktemp -d)
ssh-keygen -q -t ed25519 -N '' -f "$keys/host"

# StrictModes: what Kubernetes mounts as ~/.ssh is root's. PATH: a session has nothing of this process's environment.
exec "$(command -v sshd || echo /usr/sbin/sshd)" -D -e -f /dev/null -h "$keys/host" -p "${1:-2222}" \
    -o "AllowUsers=$(id -un)" -o AuthenticationMethods=publickey -o DisableForwarding=yes -o PidFile=none \
    -o "SetEnv=PATH=$PATH" -o StrictModes=no -o UsePAM=no
