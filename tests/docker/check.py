"""Carries out the Dockerfile without Docker, and uses what comes of it: `make docker-check`.

The instructions of a variant's stages run one by one as root of folder trees; Debian's own bookworm
with Python 3.11 stands in for the image python:3.11-slim-bookworm. What follows runs as the image's
user, in namespaces of its own: what `docker run` would, with and without MPI, and a login by ssh.
It takes root, debootstrap, unshare and iproute2, five minutes on two cores and 5 GB, which it gives
back however it ends. The exit status is 1 where something failed, 2 where it cannot be tried.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.docker.context import Context
from tests.docker.dockerfile import Instruction, Stage, needed, read
from tests.docker.image import ISOLATED, Builder, Failed, Image, remove

REPO = Path(__file__).resolve().parents[2]
BASE = "python:3.11-slim-bookworm"
SUITES = {
    "http://deb.debian.org/debian": "bookworm bookworm-updates",
    "http://deb.debian.org/debian-security": "bookworm-security",
}
PROGRAMS = {  # and the packages that have them
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "ssh-keygen": "openssh-client",
    "unshare": "util-linux",
}
LOOK = "--model mobilenet0.25 --weights none --image-size 32 --batch-size 20 --epochs 1"
TRAIN = f"python -m dist_ft.train --data food5 {LOOK} --out"


def missing() -> str:
    """What there is not for trying it here."""
    if os.geteuid() != 0:
        return "only root can make trees and enter them"
    for name, package in PROGRAMS.items():
        if not shutil.which(name):
            return f"no {name} here (apt-get install {package})"
    return ""


def make_base(image: str, tree: Path) -> None:
    """Debian as the official image has it: its sources, its Python's places, no lists."""
    if image != BASE:
        raise Failed(f"nothing here stands in for the image {image}")
    words = ["debootstrap", "--variant=minbase", "--include=ca-certificates,python3,python3-venv"]
    words = [*ISOLATED, *words, "bookworm", str(tree)]
    made = subprocess.run(words, capture_output=True, text=True)
    if made.returncode:
        raise Failed(f"debootstrap: {made.stdout}{made.stderr}")
    for name in ("python", "python3", "python3.11"):
        (tree / "usr/local/bin" / name).symlink_to("/usr/bin/python3.11")
    (tree / "etc/apt/sources.list").unlink()
    keyring = "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg"
    (tree / "etc/apt/sources.list.d/debian.sources").write_text(
        "\n".join(
            f"Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\n{keyring}\n"
            for uri, suites in SUITES.items()
        )
    )
    (tree / "etc/apt/apt.conf.d/docker-clean").write_text(
        'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };\n'
    )
    for folder in ("var/lib/apt/lists", "var/cache/apt/archives"):
        shutil.rmtree(tree / folder)
        (tree / folder / "partial").mkdir(parents=True)


class Trial:
    """Uses an image, with a folder of the host's as /work."""

    def __init__(self, image: Image, folder: Path, driver: Path | None):
        self._image, self._work, self._ssh = image, folder / "work", folder / "ssh"
        self._work.mkdir()
        self._mounts = {self._work: "/work"}
        if driver:
            self._mounts[driver.resolve()] = "/usr/local/nvidia/lib64"
        self.failures = 0

    def run(self, name: str, words: list[str], *seen: str, user: str = "", **environment: str):
        """`docker run IMAGE words`, which has to end well, and show what is to be seen."""
        start = time.monotonic()
        numbers = user or self._image.user
        for path in (self._work, *self._work.rglob("*")):
            shutil.chown(path, int(numbers.split(":")[0]))
        words = [*self._image.words["ENTRYPOINT"], *words]
        try:
            output = self._image.execute(words, self._mounts, user, environment, own_network=True)
            problem = "".join(
                f"{each!r} is not to be seen in:\n{output}" for each in seen if each not in output
            )
        except Failed as failed:
            problem = str(failed)
        self.failures += bool(problem)
        took = f"{time.monotonic() - start:5.1f} s"
        print(f"{'FAIL' if problem else 'ok':4}  {took}  {name}\n{problem}".rstrip(), flush=True)

    def shell(self, name: str, script: str, *seen: str, **more: str) -> None:
        self.run(name, ["bash", "-euo", "pipefail", "-c", script], *seen, **more)

    def all(self) -> None:
        self.run("settings", self._image.words["CMD"], "--stall-timeout")
        self.run(
            "health",
            self._image.words["HEALTHCHECK"],
            "with Gloo, MPI",
            "no such folder; name one with --data",
        )
        self.shell("what was left out", LEFT_OUT)
        sample = "python /dist_ft/food5/sample.py --out food5 --train 12 --test 8 --side 96"
        self.shell("a data set", sample, "5 classes")
        self.shell("one process", f"{TRAIN} runs/one", "test acc")
        self.shell(
            "another user", f"id -u && {TRAIN} runs/other", "4321", user="4321:4321", HOME="/work"
        )
        two = "horovodrun -np 2 -H 127.0.0.1:2 --gloo"
        self.shell("two by Gloo", f"{two} {TRAIN} runs/gloo", "2 x cpu(0)", "test acc")
        by_mpi = f"/dist_ft/launch/mpirun.sh 127.0.0.1:2 --data food5 {LOOK} --out runs/mpi"
        self.shell("two by MPI", by_mpi, "2 x cpu(0)", "test acc")
        self._make_keys()
        self.shell("a login by ssh", LOGIN, "uid=1000(mpiuser)", "Accepted publickey", "refused")

    def _make_keys(self) -> None:
        """As the MPI Operator mounts them: root's, and for all to read."""
        self._ssh.mkdir()
        self._mounts[self._ssh] = "/home/mpiuser/.ssh"
        key = self._ssh / "id_rsa"
        subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", str(key)], check=True)
        shutil.copy(self._ssh / "id_rsa.pub", self._ssh / "authorized_keys")
        key.chmod(0o644)


LEFT_OUT = r"""
for name in cc c++ g++ gcc make nvcc; do
    if command -v $name; then exit 1; fi
done
for rest in '/etc/ssh/ssh_host_*' '/var/lib/apt/lists/*_*' '/var/cache/apt/archives/*.deb'; do
    if compgen -G "$rest"; then exit 1; fi
done
if [ -w /dist_ft ] || [ ! -w . ]; then exit 1; fi
command -v pkill
"""

LOGIN = r"""
/dist_ft/launch/sshd.sh 2>/tmp/log &
ssh="/dist_ft/launch/ssh/ssh -p 2222 127.0.0.1"
for _ in {1..50}; do ! grep -q listening /tmp/log || break; sleep 0.1; done
$ssh 'id; command -v horovodrun orted; python -c "import horovod.mxnet"' ||
    { cat /tmp/log; exit 1; }
grep Accepted /tmp/log
ssh-keygen -q -t ed25519 -N '' -f /tmp/other
if $ssh -i /tmp/other -o IdentitiesOnly=yes true; then exit 1; fi
echo refused
"""


def tell(stage: Stage, each: Instruction) -> None:
    if each.word in ("COPY", "RUN"):
        print(f"      {stage.name or 'the image'}: {each.word} {each.text:.90}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.docker.check", description=__doc__)
    parser.add_argument("--build-arg", metavar="NAME=VALUE", default=[], action="append")
    parser.add_argument("--cache", type=Path, help="folder for what RUN --mount=type=cache keeps")
    parser.add_argument("--driver", type=Path, help="folder of libcuda.so.1, for CUDA's variants")
    given = parser.parse_args()
    if missing():
        print(f"docker-check: {missing()}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments = dict(each.split("=", 1) for each in given.build_arg)
    folder = Path(tempfile.mkdtemp(prefix="dist_ft-docker-"))
    cache = given.cache or folder / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    try:
        builder = Builder(Context(REPO), folder / "trees", cache.resolve(), make_base)
        stages = needed(read(REPO / "Dockerfile", arguments))
        trial = Trial(builder.build(stages, arguments, tell), folder, given.driver)
        trial.all()
    except Failed as failed:
        print(f"FAIL  {failed}", file=sys.stderr)
        return 1
    finally:
        remove(folder)
    return 1 if trial.failures else 0


if __name__ == "__main__":
    sys.exit(main())
