#!/usr/bin/env bash
# Builds the image of the Dockerfile with buildah, without a Docker daemon, and tests it.
#
#   tests/docker/check.sh [cpu|cu112]
#
# Needs root and: apt-get install buildah debootstrap iproute2 openssh-client. Takes about ten minutes on two cores and
# 10 GB in /var/tmp, which are freed at the end. If no registry is reachable, a Debian from debootstrap replaces the base
# image. The exit status is 1 if the build or a test fails, 2 if a program is missing.
#   CACHE   folder in which the cache mounts of the build, with Horovod's wheel, are kept    (default: not kept)
# shellcheck disable=SC2016    # the container's shell expands its scripts
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

die() { echo "docker-check: $*" >&2; exit 2; }
[ "$(id -u)" = 0 ] || die "run it as root"
for program in buildah debootstrap ip ssh-keygen; do
    command -v $program >/dev/null || die "$program is not installed (see $0)"
done

variant=${1:-cpu}
base=docker.io/library/python:3.11-slim-bookworm    # as in the Dockerfile
tmp=$(mktemp -d /var/tmp/docker-check.XXXXXX)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 143' TERM
mkdir "$tmp/work" "$tmp/ssh"
export TMPDIR=${CACHE:-$tmp} BUILDAH_ISOLATION=chroot
mkdir -p "$TMPDIR"
buildah=(buildah --storage-driver vfs --root "$tmp/storage" --runroot "$tmp/run")

# Makes a Debian with what the Dockerfile uses of the official image: Python in /usr/local/bin and apt's settings.
make_base() {
    local container root name
    container=$("${buildah[@]}" from scratch)
    root=$("${buildah[@]}" mount "$container")
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$root" >"$tmp/log" ||
        { cat "$tmp/log" >&2; exit 1; }
    for name in python python3 python3.11; do ln -s /usr/bin/python3.11 "$root/usr/local/bin/$name"; done
    rm -rf "$root"/etc/apt/sources.list "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/archives/*.deb
    printf '%s\n' 'Types: deb' 'URIs: http://deb.debian.org/debian' 'Suites: bookworm bookworm-updates' \
        'Components: main' 'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg' \
        >"$root/etc/apt/sources.list.d/debian.sources"
    echo 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };' >"$root/etc/apt/apt.conf.d/docker-clean"
    "${buildah[@]}" umount "$container" >/dev/null
    "${buildah[@]}" commit --quiet --rm "$container" $base
}

"${buildah[@]}" pull --quiet --retry 0 $base 2>/dev/null || make_base

# buildah 1.28 does not find the stages that a variable in FROM refers to. The host's certificates and pip.conf allow a
# proxy with a certificate of its own.
sed "s/^\(FROM .*\)\${MXNET}/\1$variant/" Dockerfile >"$tmp/Dockerfile"
printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$tmp/pip.conf"
"${buildah[@]}" build --file "$tmp/Dockerfile" --pull=never --format docker --layers=false --tag dist_ft \
    --volume /etc/ssl/certs:/etc/ssl/certs:ro --volume "$tmp/pip.conf:/etc/pip.conf:ro" .
container=$("${buildah[@]}" from --pull=never dist_ft)
config() { "${buildah[@]}" inspect --type image --format "{{range .Docker.Config.$1}}{{.}} {{end}}" dist_ft; }

# The keys are readable by everyone and belong to root, as in a pod of the MPI Operator.
ssh-keygen -q -t rsa -N '' -f "$tmp/ssh/id_rsa"
cp "$tmp/ssh/id_rsa.pub" "$tmp/ssh/authorized_keys"
chmod 644 "$tmp/ssh/id_rsa"

failed=''
# check NAME PATTERN SCRIPT [USER HOME]: runs the script as `docker run` would, without a network. It must succeed with
# output that matches the pattern.
check() {
    local name=$1 pattern=$2 script=$3 user=${4:-1000} home=${5:-/home/mpiuser} output status=0
    chown -R "$user" "$tmp/work"
    # shellcheck disable=SC2046    # a list of words
    output=$(timeout 300 unshare --net --pid --fork --kill-child sh -c 'ip link set lo up && exec "$@"' sh \
        "${buildah[@]}" run --user "$user" --env "HOME=$home" --volume "$tmp/work:/work" \
        --volume "$tmp/ssh:/home/mpiuser/.ssh:ro" "$container" -- $(config Entrypoint) bash -euo pipefail -c "$script" 2>&1) ||
        status=$?
    if [ $status = 0 ] && grep -qE -- "$pattern" <<<"$output"; then
        echo "ok    $name"
    else
        failed=yes
        printf 'FAIL  %s: exit status %s, expected output %s\n%s\n' "$name" $status "$pattern" "$output"
    fi
}

flags="--data food5 --model mobilenet0.25 --weights none --image-size 32 --batch-size 20 --epochs 1 --out"
check "default command" --stall-timeout "$(config Cmd)"
check "health check" "" "python -m dist_ft.doctor"
check "no compiler, host key, package list; read-only code" /pkill '
    for name in cc c++ g++ gcc make nvcc; do if command -v $name; then exit 1; fi; done
    for files in "/etc/ssh/ssh_host_*" "/var/lib/apt/lists/*_*" "/var/cache/apt/archives/*.deb"; do
        if compgen -G "$files"; then exit 1; fi
    done
    [ ! -w /dist_ft ] && [ -w . ] && command -v pkill'
check "sample data" "5 classes" "python /dist_ft/food5/sample.py --out food5 --train 12 --test 8 --side 96"
check "one process, another user" "test acc" "python -m dist_ft.train $flags runs/one" 4321:4321 /work
check "horovodrun" "test acc" "horovodrun -np 2 -H 127.0.0.1:2 --gloo python -m dist_ft.train $flags runs/gloo"
check "mpirun" "test acc" "/dist_ft/launch/mpirun.sh 127.0.0.1:2 $flags runs/mpi"
check "ssh login" "Accepted publickey" '
    /dist_ft/launch/sshd.sh 2>/tmp/log &
    for _ in {1..100}; do ! grep -q listening /tmp/log || break; sleep 0.1; done
    ssh="/dist_ft/launch/ssh/ssh -p 2222 127.0.0.1"
    $ssh "command -v horovodrun orted && python -c \"import horovod.mxnet\"" || { cat /tmp/log; exit 1; }
    ssh-keygen -q -t ed25519 -N "" -f /tmp/other_key
    if $ssh -F none -i /tmp/other_key -o IdentitiesOnly=yes true; then exit 1; fi
    cat /tmp/log'
[ -z "$failed" ]
