"""Command lines: flags and a `--config` file into a Config, and `dist-ft NAME` into a module."""

from __future__ import annotations

import argparse
import difflib
import runpy
import sys
from contextlib import suppress
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Iterable, Sequence

from dist_ft.config import DTYPES, Config, ConfigError, flag_of

COMMANDS = ("train", "doctor", "pack", "bench", "audit", "predict", "report", "evaluate", "export")
TRUTHS = {"off": False, "no": False, "on": True, "yes": True}  # words of YAML 1.1's for them


def main() -> None:
    """`dist-ft train ...` is `python -m dist_ft.train ...`."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        sys.exit(f"usage: dist-ft {{{','.join(COMMANDS)}}} [--help] ...")
    del sys.argv[1]
    runpy.run_module(f"dist_ft.{name}", run_name="__main__", alter_sys=True)


def parse(argv: Sequence[str] | None = None) -> Config:
    """The Config of a command line (default: this process's); flags > file > defaults.

    Exits with status 2 and a line for each problem where it is unusable.
    """
    parser = argparse.ArgumentParser(
        prog="dist_ft",
        usage="python -m dist_ft.train [--config FILE] [--data DIR] [settings]",
        description="Fine-tune a pretrained classifier on a folder of images. With "
        "'horovodrun -np N' in front, N processes carry the same run.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings, named as below")
    groups: dict[str, Any] = {}
    for f in fields(Config):
        title = f.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add_flag(groups[title], f)
    given = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    path = given.pop("config", None)
    try:
        return Config(**{**(read_settings(path) if path else {}), **given})
    except ConfigError as error:
        problems = "\n".join("  " + line for line in str(error).splitlines())
        parser.exit(2, f"dist_ft: these settings cannot be used:\n{problems}\n")


def add_count(parser: argparse.ArgumentParser, flag: str, default: int, text: str) -> None:
    """A flag for a number of things, of which there is one at least."""
    told = f"{text} (default: %(default)s)"
    parser.add_argument(flag, type=_count, default=default, metavar="N", help=told)


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """The flag for what a trained network computes in."""
    text = "as of train (default: that of the training run; float32 where it is not to be had)"
    parser.add_argument("--dtype", choices=("", *DTYPES), default="", metavar="TYPE", help=text)


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no number from 1 on")
    return int(word)


def add_share(parser: argparse.ArgumentParser, flag: str, default: float, text: str) -> None:
    """A flag for a share of a whole."""
    told = f"{text} (default: %(default)s)"
    parser.add_argument(flag, type=_share, default=default, metavar="X", help=told)


def _share(word: str) -> float:
    with suppress(ValueError):
        if 0 < float(word) <= 1:
            return float(word)
    raise argparse.ArgumentTypeError(f"{word!r} is no share: a number above 0 and up to 1")


def _add_flag(group: Any, f: Field) -> None:
    meta, flag = f.metadata, flag_of(f.name)
    shown = f.default not in (None, (), "") and f.default is not False
    text = meta["help"] + (f" (default: {f.default})" if shown else "")
    # No flag has a default here, and choices are Config's to check: a file's values count too.
    if f.type == "bool":
        group.add_argument(flag, type=_truth, nargs="?", const=True, metavar="yes|no", help=text)
    elif f.type.startswith("tuple"):
        item = str if "str" in f.type else float
        group.add_argument(flag, action=_Repeat, type=item, metavar="X", help=text + "; repeatable")
    else:
        item = {"int": int, "str": str}.get(f.type, float)
        metavar = "{" + ",".join(meta["choices"]) + "}" if meta["choices"] else f.name[0].upper()
        group.add_argument(flag, type=item, metavar=metavar, help=text)


class _Repeat(argparse.Action):
    def __call__(self, parser, namespace, value, option_string=None):
        setattr(namespace, self.dest, (*(getattr(namespace, self.dest) or ()), value))


def _truth(word: str) -> bool:
    if word not in ("yes", "true", "no", "false"):
        raise argparse.ArgumentTypeError(f"{word!r} is neither yes nor no")
    return word in ("yes", "true")


def read_settings(path: str) -> dict[str, Any]:
    """Settings of a YAML file, named as Config's fields, with dashes or underscores.

    Raises ConfigError for an unreadable file and for names that Config does not have.
    """
    import yaml  # only where a file is named: `--help` answers at once

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {path}: cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--config {path}: must map settings to values")
    known = {f.name: f for f in fields(Config)}
    values = {str(name).replace("-", "_"): value for name, value in values.items()}
    unknown = [_unknown(name, known) for name in values if name not in known]
    if unknown:
        raise ConfigError("\n".join(f"--config {path}: {line}" for line in unknown))
    return {
        name: _from_yaml(_word(value, known[name].metadata["choices"] or ()), known[name].type)
        for name, value in values.items()
    }


def _word(value: Any, choices: Sequence[str]) -> Any:
    """YAML takes a plain off, on, no or yes for a truth: the one among the choices was meant."""
    meant = [word for word in choices if isinstance(value, bool) and TRUTHS.get(word) is value]
    return meant[0] if len(meant) == 1 else value


def _unknown(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    return f"no setting {name!r}; " + (
        f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    )


def _from_yaml(value: Any, kind: str) -> Any:
    """YAML has lists where Config has tuples, and reads 1e-3 (no dot) as a word."""
    if kind.startswith("tuple"):
        item = kind[len("tuple[") : kind.index(",")]
        values = value if isinstance(value, list) else [value]
        return tuple(_from_yaml(value, item) for value in values)
    if "float" in kind and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
