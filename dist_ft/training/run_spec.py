"""What identifies a run: its settings, data and software versions.

The ranks compare theirs before the first step, and a resumed run compares its own with that of the
checkpoint.
"""

from __future__ import annotations

import platform
from dataclasses import fields
from typing import Any, Dict, Iterable, Sequence

import mxnet as mx
import numpy as np

from dist_ft import __version__
from dist_ft.config import FREE_ON_RESUME, Config
from dist_ft.data.dataset import Dataset, Split
from dist_ft.settings import flag_of

RunSpec = Dict[str, Any]  # by name, values that JSON preserves

LISTS = {"--train-list", "--val-list", "--test-list"}
HOST_PATHS = {"--data", "--out", "--weights", "--cache-dir"} | LISTS  # may differ between ranks


def describe(settings: dict[str, Any], dataset: Dataset) -> RunSpec:
    """settings: all settings by name, as Config.as_dict returns them."""
    return {
        **{flag_of(name): _plain(value) for name, value in settings.items()},
        "classes": list(dataset.classes),
        "train images": describe_split(dataset.train),
        "val images": describe_split(dataset.val),
        "test images": describe_split(dataset.test),
        "version of dist_ft": __version__,
        "version of mxnet": mx.__version__,
        "version of numpy": np.__version__,
        "version of Python": platform.python_version(),
    }


def rank_differences(specs: Sequence[RunSpec], rank_names: Sequence[str]) -> list[str]:
    """One line for each difference between a rank and rank 0."""
    return [
        f"{rank_name} differs from rank 0 in {difference}"
        for rank_name, spec in zip(rank_names[1:], specs[1:])
        for difference in _differences(specs[0], spec, HOST_PATHS)
    ]


def resume_differences(saved: RunSpec, current: RunSpec) -> list[str]:
    """One line for each difference that would make the steps of a resumed run other steps.

    saved: from a checkpoint, possibly of an older version. A setting that it lacks had its default;
    a setting that no longer exists is ignored.
    """
    ignored = {flag_of(name) for name in FREE_ON_RESUME}
    if current["--schedule"] in ("cosine", "poly"):
        ignored.remove("--epochs")  # the learning rate depends on them
    if current["--scale-batch"] and current["--warmup-epochs"] is None:
        ignored.discard("--epochs")  # the default warm-up is at most as long
    ignored |= {name for name in current if name.startswith("version of ")} | {"test images"}
    defaults = {flag_of(f.name): _plain(f.default) for f in fields(Config)}
    saved = {name: value for name, value in saved.items() if name in current}
    return _differences({**defaults, **saved}, current, ignored)


def _differences(a: RunSpec, b: RunSpec, ignored: Iterable[str]) -> list[str]:
    return [
        f"{name}: {b.get(name)} instead of {a.get(name)}"
        for name in sorted({*a, *b} - set(ignored))
        if a.get(name) != b.get(name)
    ]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def describe_split(split: Split | None) -> str | None:
    """The number and the fingerprint of the images; None if there is no such split."""
    return None if split is None else f"{len(split)} of fingerprint {split.fingerprint()}"
