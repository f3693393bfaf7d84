#!/bin/sh
# A container's process 1: `enter.sh TREE USER FOLDER COMMAND...`, in namespaces of its own for mounts and processes,
# and for the network where OWN_NETWORK is set. MOUNTS has a line "FROM TO" for each folder to be seen within.
set -e
tree=$1 user=$2 folder=$3
shift 3
mount -t proc proc "$tree/proc"
mount -t sysfs -o ro sysfs "$tree/sys"
mount -t tmpfs -o mode=755 tmpfs "$tree/dev"
for node in full null random tty urandom zero; do
    : >"$tree/dev/$node"
    mount --bind "/dev/$node" "$tree/dev/$node"
done
mkdir "$tree/dev/shm" "$tree/dev/pts"
mount -t tmpfs -o mode=1777,size=1g tmpfs "$tree/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$tree/dev/pts"
ln -s pts/ptmx "$tree/dev/ptmx"
ln -s /proc/self/fd "$tree/dev/fd"
for file in hosts resolv.conf; do
    [ -e "$tree/etc/$file" ] || : >"$tree/etc/$file"
    mount --bind "/etc/$file" "$tree/etc/$file"
done
printf '%s' "$MOUNTS" | while read -r from to; do
    mkdir -p "$tree$to"
    mount --bind "$from" "$tree$to"
done
[ -z "$OWN_NETWORK" ] || ip link set lo up
unset MOUNTS OWN_NETWORK
exec chroot --userspec="$user" "$tree" /bin/sh -c 'cd "$0" && exec "$@"' "$folder" "$@"
