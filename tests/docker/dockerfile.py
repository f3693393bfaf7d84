"""A Dockerfile as stages of instructions, with build arguments put in where Docker does so."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Mapping, NamedTuple

VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::-([^}]*))?\})")


class Instruction(NamedTuple):
    """One instruction, its continued lines joined: WORD --FLAG=VALUE... TEXT."""

    word: str
    flags: dict[str, str]
    text: str
    line: int  # of the file, from 1

    def words(self) -> list[str]:
        """The text's words: those of the exec form, or those a shell would see."""
        return json.loads(self.text) if self.text.startswith("[") else shlex.split(self.text)

    def pairs(self) -> dict[str, str]:
        """What ENV, LABEL and ARG set; an ARG without a value sets nothing."""
        return dict(word.split("=", 1) for word in self.words() if "=" in word)


class Stage(NamedTuple):
    """What follows one FROM."""

    base: str  # an image, or the name of an earlier stage
    name: str
    instructions: list[Instruction]


def parse(text: str) -> list[Instruction]:
    """Raises ValueError for a line that does not begin with an instruction."""
    instructions, pending, start = [], "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not (line.strip() or pending):
            continue
        start = start if pending else number
        pending += line.strip()
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        instructions.append(_instruction(pending, start))
        pending = ""
    if pending:
        raise ValueError(f"line {start}: goes on after the end of the file")
    return instructions


def _instruction(line: str, number: int) -> Instruction:
    matched = re.fullmatch(r"([A-Z]+)((?:\s+--[a-z-]+=\S+)*)\s+(.+)", line)
    if not matched:
        raise ValueError(f"line {number}: no instruction: {line}")
    word, flags, text = matched.groups()
    return Instruction(
        word, dict(flag[2:].split("=", 1) for flag in flags.split()), text.strip(), number
    )


def read(path: Path, arguments: Mapping[str, str]) -> list[Stage]:
    """The stages of a file as a build with these --build-arg has them.

    Names are put in where FROM and COPY --from say them; an argument that the file does not have
    is a ValueError, as is a FROM without a stage's name that is not the last.
    """
    instructions = parse(path.read_text())
    first = next(i for i, each in enumerate(instructions) if each.word == "FROM")
    defaults: dict[str, str] = {}
    for each in instructions[:first]:
        defaults.update(each.pairs())
    unknown = sorted(set(arguments) - set(defaults))
    if unknown:
        raise ValueError(f"{path.name} has no build argument {', '.join(unknown)}")
    values, stages = {**defaults, **arguments}, []
    for each in instructions[first:]:
        if each.word == "FROM":
            base, *named = fill(each.text, values).split()
            stages.append(Stage(base, named[1] if named else "", []))
        else:
            stages[-1].instructions.append(each)
    return stages


def fill(text: str, values: Mapping[str, str]) -> str:
    """`$NAME`, `${NAME}` and `${NAME:-word}` of a text, put in; one without a value is empty."""
    return VARIABLE.sub(lambda m: values.get(m[1] or m[2]) or m[3] or "", text)


def needed(stages: list[Stage]) -> list[Stage]:
    """The stages that the last one is made of, in the file's order, as BuildKit builds them."""
    by_name = {stage.name: stage for stage in stages if stage.name}
    wanted, todo = [stages[-1]], [stages[-1]]
    while todo:
        stage = todo.pop()
        copied = [each.flags.get("from", "") for each in stage.instructions if each.word == "COPY"]
        for name in (stage.base, *copied):
            if name in by_name and by_name[name] not in wanted:
                wanted.append(by_name[name])
                todo.append(by_name[name])
    return [stage for stage in stages if stage in wanted]
