#!/usr/bin/env bash
# Runs an ssh server in the foreground as the current user, without root, so that launchers can reach this container.
#
#   launch/sshd.sh [PORT]          default: 2222
#   launch/mpirun.sh --port 2222 host1:4,host2:4 --data DIR      then, on one of the hosts
#
# Only the current user can log in, with a key from ~/.ssh/authorized_keys. A new host key is created at each start.
set -euo pipefail

case ${1:-2222} in
    -h | --help) sed -n '2,/^[^#]/ s/^# \{0,1\}//p' "$0"; exit ;;
    *[!0-9]*) echo "sshd: invalid port '$1'" >&2; exit 2 ;;
esac

keys=$(mktemp -d)
ssh-keygen -q -t ed25519 -N '' -f "$keys/host"

# StrictModes=no: Kubernetes mounts ~/.ssh with root as its owner. SetEnv: sessions do not inherit this PATH otherwise.
exec "$(command -v sshd || echo /usr/sbin/sshd)" -D -e -f /dev/null -h "$keys/host" -p "${1:-2222}" \
    -o "AllowUsers=$(id -un)" -o AuthenticationMethods=publickey -o DisableForwarding=yes -o PidFile=none \
    -o "SetEnv=PATH=$PATH" -o StrictModes=no -o UsePAM=no
