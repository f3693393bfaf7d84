#!/bin/sh
# Process 1 of a host of tests/hosts/network.py, in its own namespaces: `host.sh NAME FOLDER`.
set -e
hostname "$1"
mount -t sysfs sysfs /sys    # shows the network interfaces of this host
mount -t tmpfs tmpfs /run
mkdir /run/sshd
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/ssh_config" /etc/ssh/ssh_config
ip link set lo up
echo ready
read -r _    # until the network is connected
exec "$(command -v sshd || echo /usr/sbin/sshd)" -D -E "$2/$1.log" -f "$2/sshd_config"
