"""Weights of the classes in the training loss (--class-weights)."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Sequence

import numpy as np
import yaml

from dist_ft.errors import UserError
from dist_ft.text import canonical

BALANCED = "balanced"


def class_weights(
    source: str, classes: Sequence[str], counts: Sequence[int] | np.ndarray
) -> np.ndarray:
    """(C,) float64 weights, whose mean over the images of an epoch is 1.

    source: "balanced" for weights that give all classes the same sum (as in scikit-learn), or a
    file with the weight of every class: a JSON or YAML mapping, or CSV lines of class and weight.
    counts: the images of each class in an epoch. Raises UserError for an unusable file.
    """
    counts = np.asarray(counts)
    if source == BALANCED:
        weights = 1 / np.maximum(counts, 1)
    else:
        weights = np.array(_in_order(source, _read(Path(source)), classes))
    return weights * (counts.sum() / (weights * counts).sum())


def _read(path: Path) -> dict[str, str]:
    """The class names and weights of a file, as text. Raises UserError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row]
            return {name: weight for name, weight in rows if name != "class"}
        values = yaml.load(text, Loader=yaml.BaseLoader)  # no class named no becomes False
        return {str(name): str(weight) for name, weight in values.items()}
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise UserError(
            f"--class-weights {path}: cannot be read ({error}); it must be 'balanced', a JSON or"
            " YAML file that maps every class to its weight, or a .csv file with a line"
            " CLASS,WEIGHT for each"
        ) from error


def _in_order(source: str, weights: dict[str, str], classes: Sequence[str]) -> list[float]:
    weights = {canonical(name): weight for name, weight in weights.items()}
    missing = [name for name in classes if name not in weights]
    unknown = sorted(weights.keys() - set(classes))
    problems = [f"no weight for {', '.join(missing)}"] if missing else []
    problems += [f"no such class: {', '.join(unknown)}"] if unknown else []
    if problems:
        raise UserError(f"--class-weights {source}: {'; '.join(problems)}; name every class once")
    return [_weight(source, name, weights[name]) for name in classes]


def _weight(source: str, name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise UserError(
            f"--class-weights {source}: {name} has {text!r}; a weight must be a number above 0"
        )
    return weight
