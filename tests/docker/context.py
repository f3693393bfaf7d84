"""What is sent to the builder: the repository but for what .dockerignore leaves out."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Iterator


class Context:
    def __init__(self, root: Path):
        """root: the folder of a .dockerignore."""
        lines = (root / ".dockerignore").read_text().splitlines()
        lines = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        self.root = root
        self._rules = [(line.startswith("!"), _regex(line.lstrip("!"))) for line in lines]

    def has(self, name: str) -> bool:
        """Whether a file or folder is sent: the last rule for it, or for a folder above, counts."""
        kept = True
        for keeps, rule in self._rules:
            if rule.match(name):
                kept = keeps
        return kept

    def files(self, source: str) -> Iterator[Path]:
        """The files, relative to the root, of a folder, or the one that source is.

        Raises FileNotFoundError where nothing of it is sent.
        """
        path = self.root / source
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        names = [each.relative_to(self.root) for each in found if each.is_file()]
        sent = [name for name in names if self.has(str(name))]
        if not sent:
            raise FileNotFoundError(f"COPY {source}: nothing of that name is sent to the builder")
        yield from sent

    def copy(self, source: str, target: Path) -> None:
        """A file to target, or a folder's contents into it, as root's."""
        for name in self.files(source):
            to = target / name.relative_to(source) if (self.root / source).is_dir() else target
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.root / name, to)


def _regex(pattern: str) -> re.Pattern:
    """`*` and `**/` as Docker means them; a folder stands for all that is in it."""
    parts = re.split(r"(\*\*/|\*)", pattern.strip("/"))
    said = {"**/": r"(?:.*/)?", "*": r"[^/]*"}
    return re.compile("".join(said.get(part, re.escape(part)) for part in parts) + r"(?:/.*)?$")
