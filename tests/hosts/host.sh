#!/bin/sh
# What a host of tests/hosts/network.py is: `host.sh NAME FOLDER`, process 1 of namespaces of its own.
set -e
hostname "$1"
mount -t sysfs sysfs /sys    # with this host's network interfaces
mount -t tmpfs tmpfs /run
mkdir /run/sshd
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/ssh_config" /etc/ssh/ssh_config
ip link set lo up
echo made
read -r _    # its network is plugged in meanwhile
exec "$(command -v sshd || echo /usr/sbin/sshd)" -D -E "$2/$1.log" -f "$2/sshd_config"
