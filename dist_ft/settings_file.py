"""YAML files of settings: those of --config, the recipes, and the output of --show."""

from __future__ import annotations

import difflib
import math
from contextlib import suppress
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

from dist_ft.config import GROUPS, Config
from dist_ft.settings import ConfigError, declared_type, item_type

RECIPES = ("original", "strong")
RECIPE_FOLDER = Path(__file__).with_name("recipes")
RECIPE = "recipe"  # the only key of a file that is no field of Config
YAML_BOOLEANS = {"off": False, "no": False, "on": True, "yes": True}  # YAML 1.1's words for them
COMMENT_COLUMN = 30


def read_recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe; all others keep their defaults. Raises ConfigError."""
    if name not in RECIPES:
        raise ConfigError(f"--recipe {name}: choose one of {', '.join(RECIPES)}")
    return read_settings(str(RECIPE_FOLDER / f"{name}.yaml"))


def read_settings(path: str) -> dict[str, Any]:
    """The settings of a YAML file, named like Config's fields, with dashes or underscores.

    They may include the name of a recipe, as "recipe". Raises ConfigError for an unreadable file
    and for unknown names.
    """
    import yaml  # not for `--help`, which answers at once

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {path}: cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--config {path}: must map settings to values")
    known = {f.name: f for f in fields(Config)}
    values = {str(name).replace("-", "_"): value for name, value in values.items()}
    unknown = [_unknown(name, known) for name in values if name not in (*known, RECIPE)]
    if unknown:
        raise ConfigError("\n".join(f"--config {path}: {line}" for line in unknown))
    return {n: v if n == RECIPE else _setting_from_yaml(v, known[n]) for n, v in values.items()}


def as_yaml(config: Config, sources: Mapping[str, str]) -> str:
    """All settings as a file for --config, with their help texts as comments.

    sources: where settings come from, by name; the others have their defaults.
    """
    lines = ["# The settings of a run. Save them to a file and pass it with --config."]
    for group in GROUPS:
        lines += ["", f"# {group.__doc__}"]
        for f in fields(group):
            source = f" (from {sources[f.name]})" if f.name in sources else ""
            entry = _entry(f.name.replace("_", "-"), getattr(config, f.name))
            lines.append(f"{entry:<{COMMENT_COLUMN}}  # {f.metadata['help']}{source}")
    return "\n".join(lines)


def _entry(name: str, value: Any) -> str:
    """One line of YAML."""
    import yaml

    # Only quoted strings have escapes, which a line break needs.
    style = '"' if isinstance(value, str) and not value.isprintable() else None
    text = yaml.safe_dump(
        {name: list(value) if isinstance(value, tuple) else value},
        default_flow_style=True,
        default_style=style,
        allow_unicode=True,
        width=math.inf,
    )
    return text.strip()[1:-1]  # without the braces


def _setting_from_yaml(value: Any, f: Field) -> Any:
    return _from_yaml(_intended(value, f.metadata["choices"] or ()), declared_type(f))


def _intended(value: Any, choices: Sequence[str]) -> Any:
    """YAML reads off, on, no and yes as booleans: returns the choice that was meant."""
    meant = [c for c in choices if isinstance(value, bool) and YAML_BOOLEANS.get(c) is value]
    return meant[0] if len(meant) == 1 else value


def _from_yaml(value: Any, declared: str) -> Any:
    """YAML has lists where Config has tuples, and reads 1e-3 (no dot) as a string."""
    if declared.startswith("tuple"):
        values = value if isinstance(value, list) else [value]
        return tuple(_from_yaml(v, item_type(declared)) for v in values)
    if "float" in declared and isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


def _unknown(name: str, known: Iterable[str]) -> str:
    similar = difflib.get_close_matches(name, known, n=3)
    if similar:
        return f"no setting {name!r}; did you mean {' or '.join(similar)}?"
    return f"no setting {name!r}; the settings are {', '.join(known)}"
