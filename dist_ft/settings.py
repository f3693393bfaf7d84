"""How a setting is declared and checked; recipe_settings.py and job_settings.py declare them."""

from __future__ import annotations

import math
from dataclasses import Field, field, fields
from typing import Any, Iterator, Sequence

from dist_ft.errors import UserError


class ConfigError(UserError):
    """Settings that cannot be used. The message lists every problem with its remedy."""

    exit_code = 2


def setting(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] | None = None,
    low: float | None = None,
    high: float = math.inf,
    may_change: bool = False,
) -> Any:
    """A dataclass field that is also a command-line flag and a key of a YAML file.

    low, high: inclusive bounds of a number. may_change: a resumed run may use another value,
    because it does not affect what a given step computes.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "low": low,
        "high": high,
        "may_change": may_change,
    }
    return field(default=default, metadata=metadata)


def flag_of(name: str) -> str:
    """The command-line flag of a field: "batch_size" is --batch-size."""
    return "--" + name.replace("_", "-")


def type_problems(settings: Any) -> Iterator[str]:
    """One line for each field whose value is not of its declared type."""
    for f in fields(settings):
        value = getattr(settings, f.name)
        if not _has_type(value, declared_type(f)):
            yield f"{flag_of(f.name)} {value!r}: must be of type {f.type}"


def declared_type(f: Field) -> str:
    """A field's type as it is written: annotations are strings here."""
    return str(f.type)


def _has_type(value: Any, declared: str) -> bool:
    if declared.endswith(" | None"):
        return value is None or _has_type(value, declared[: -len(" | None")])
    if declared.startswith("tuple"):
        return isinstance(value, tuple) and all(_has_type(v, item_type(declared)) for v in value)
    if declared == "float":
        return type(value) in (int, float)
    return type(value).__name__ == declared


def item_type(declared: str) -> str:
    """The type of a tuple's items: "tuple[str, ...]" has "str"."""
    return declared[len("tuple[") : declared.index(",")]


def value_problems(settings: Any) -> Iterator[str]:
    """One line for each value that is not among its choices or is out of bounds."""
    for f in fields(settings):
        value, choices = getattr(settings, f.name), f.metadata["choices"]
        if choices and value not in choices:
            yield f"{flag_of(f.name)} {value}: choose one of {', '.join(choices)}"
        if f.metadata["low"] is not None and value is not None:
            for number in value if isinstance(value, tuple) else (value,):
                yield from _bound_problems(f, number)


def _bound_problems(f: Field, number: float) -> Iterator[str]:
    low, high = f.metadata["low"], f.metadata["high"]
    if not (low <= number <= high and number < math.inf):
        upper = "finite" if high == math.inf else f"at most {high}"
        yield f"{flag_of(f.name)} {number}: must be at least {low} and {upper}"
