"""An image without Docker: stages carried out in folder trees, each command in a namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable

from tests.docker.context import Context
from tests.docker.dockerfile import Instruction, Stage, fill

# What is mounted and started in it ends with it, and that ends with its parent.
ISOLATED = [
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
]
ENTER = Path(__file__).with_name("enter.sh")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# This machine's way to the package registries, and whom it trusts on it; no part of an image.
NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PIP_CERT", "PIP_INDEX_URL", "SSL_CERT_FILE")
CERTIFICATES = "/etc/ssl/certs"


class Failed(Exception):
    """A command ended badly, or not in time."""


@dataclass
class Image:
    tree: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    user: str = "0"
    folder: str = "/"
    words: dict[str, list[str]] = field(default_factory=dict)  # of ENTRYPOINT, CMD and HEALTHCHECK

    def execute(
        self,
        words: list[str],
        mounts: dict[Path, str],
        user: str = "",
        environment: dict[str, str] | None = None,
        own_network: bool = False,
        timeout_s: float = 120,
    ) -> str:
        """What a command prints, run to its end by root or, if given, user; raises Failed."""
        command = [*ISOLATED, *["--net"] * own_network, str(ENTER)]
        told = {
            **{"HOME": self._home(user or self.user), **self.environment, **(environment or {})},
            "MOUNTS": "".join(f"{source} {target}\n" for source, target in mounts.items()),
            "OWN_NETWORK": "yes" if own_network else "",
        }
        process = subprocess.Popen(
            [*command, str(self.tree), user or self.user, self.folder, *words],
            env=told,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except BaseException as error:
            process.kill()  # and with it all that it started
            output, _ = process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise Failed(f"not over after {timeout_s} s\n{output}") from None
        if process.returncode:
            raise Failed(f"exit status {process.returncode}\n{output}")
        return output

    def _home(self, user: str) -> str:
        """The home of a user by name or number, as Docker takes it from the image's passwd."""
        for line in (self.tree / "etc/passwd").read_text().splitlines():
            name, _, number, _, _, home, _ = line.split(":")
            if user.split(":")[0] in (name, number):
                return home
        return "/"


class Builder:
    """Carries out stages. cache: what the mounts of type cache keep."""

    def __init__(
        self, context: Context, trees: Path, cache: Path, base: Callable[[str, Path], None]
    ):
        """base(image, tree) makes an image of a registry in an empty folder."""
        self._context, self._trees, self._cache, self._base = context, trees, cache, base
        self._built: dict[str, Image] = {}
        self._scope: dict[str, str] = {}  # the ARGs of the stage

    def build(self, stages: list[Stage], arguments: dict[str, str], tell: Callable) -> Image:
        """The image of the last stage; each instruction is told before it is carried out."""
        for stage in stages:
            image, self._scope = self._begin(stage), {}
            for each in stage.instructions:
                tell(stage, each)
                getattr(self, f"_{each.word.lower()}")(image, each)
                self._scope.update({k: v for k, v in arguments.items() if k in self._scope})
            self._built[stage.name] = image
        return image

    def _begin(self, stage: Stage) -> Image:
        tree = self._trees / (stage.name or "last")
        if stage.base not in self._built:
            self._base(stage.base, tree)
            return Image(tree)
        under = self._built[stage.base]
        _copy_tree(under.tree, tree)
        return replace(under, tree=tree, environment={**under.environment})

    def _arg(self, image: Image, each: Instruction) -> None:
        self._scope.update({each.text.split("=")[0]: "", **each.pairs()})

    def _env(self, image: Image, each: Instruction) -> None:
        values = {**self._scope, **image.environment}
        image.environment.update({k: fill(v, values) for k, v in each.pairs().items()})

    def _user(self, image: Image, each: Instruction) -> None:
        image.user = each.text

    def _workdir(self, image: Image, each: Instruction) -> None:
        image.folder = os.path.join(image.folder, each.text)
        (image.tree / image.folder.lstrip("/")).mkdir(parents=True, exist_ok=True)

    def _copy(self, image: Image, each: Instruction) -> None:
        *sources, target = each.words()
        to = image.tree / os.path.join(image.folder, target).lstrip("/")
        into = target.endswith("/") or len(sources) > 1
        for source in sources:
            if "from" in each.flags:
                path = self._built[each.flags["from"]].tree / source.lstrip("/")
                _copy_tree(path, to / path.name if into and not path.is_dir() else to)
            else:
                is_folder = (self._context.root / source).is_dir()
                self._context.copy(source, to / Path(source).name if into and not is_folder else to)

    def _run(self, image: Image, each: Instruction) -> None:
        mounts = {Path(CERTIFICATES): CERTIFICATES}
        if "mount" in each.flags:
            kind = dict(part.split("=") for part in each.flags["mount"].split(","))
            if kind["type"] != "cache":
                raise ValueError(f"line {each.line}: mounts of type {kind['type']} are not known")
            mounts[self._cache] = kind["target"]
        network = {name: value for name, value in os.environ.items() if name.upper() in NETWORK}
        words = ["/bin/sh", "-c", each.text]
        try:
            image.execute(words, mounts, environment={**network, **self._scope}, timeout_s=3600)
        except Failed as failed:
            raise Failed(f"line {each.line} of the Dockerfile: {failed}") from None

    def _entrypoint(self, image: Image, each: Instruction) -> None:
        image.words = {**image.words, each.word: each.words()}

    _cmd = _entrypoint

    def _healthcheck(self, image: Image, each: Instruction) -> None:
        command = each._replace(text=each.text[len("CMD") :].strip())
        self._entrypoint(image, command)

    def _label(self, image: Image, each: Instruction) -> None:
        """Nothing that a command could see."""

    _expose = _label


def _copy_tree(source: Path, target: Path) -> None:
    """With links, owners and times; where target is a folder, into it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    inside = f"{source}/." if source.is_dir() else str(source)
    subprocess.run(["cp", "--archive", "--reflink=auto", inside, str(target)], check=True)


def remove(folder: Path) -> None:
    """Nothing is mounted below: that was so in the commands' own namespaces only."""
    shutil.rmtree(folder, ignore_errors=True)
