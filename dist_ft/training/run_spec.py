"""What a run is made of: settings, files, classes, versions. Compared between the ranks before the
first step, and with a checkpoint before it is gone on from."""

from __future__ import annotations

import platform
from typing import Any, Dict, Iterable

import mxnet as mx
import numpy as np

from dist_ft import __version__
from dist_ft.config import FREE_ON_RESUME, Config
from dist_ft.data.dataset import Dataset
from dist_ft.settings import flag_of

Facts = Dict[str, Any]

HOSTS_OWN = frozenset(
    ("data", "out", "weights", "cache_dir")
)  # paths, which may differ between hosts


def of(config: Config, folder: Dataset) -> Facts:
    """Plain values that JSON keeps."""
    return {
        **{flag_of(name): value for name, value in _plain(config.as_dict()).items()},
        **of_images(folder),
        "version of dist_ft": __version__,
        "version of mxnet": mx.__version__,
        "version of numpy": np.__version__,
        "version of Python": platform.python_version(),
    }


def of_images(folder: Dataset) -> Facts:
    return {
        "classes": list(folder.classes),
        "train images": f"{len(folder.train)} of fingerprint {folder.train.fingerprint()}",
        "test images": f"{len(folder.test)} of fingerprint {folder.test.fingerprint()}",
    }


def between_ranks(everyones: list[Facts], names: list[str]) -> list[str]:
    """A line for each difference from rank 0; names: what to call each rank."""
    own = {flag_of(name) for name in HOSTS_OWN}
    return [
        f"{name} differs from rank 0 in {line}"
        for name, facts in zip(names[1:], everyones[1:])
        for line in _differences(everyones[0], facts, own)
    ]


def since_checkpoint(saved: Facts, now: Facts) -> list[str]:
    """A line for each difference that would make the resumed run another run."""
    free = {flag_of(name) for name in FREE_ON_RESUME}
    if now["--schedule"] in ("cosine", "poly"):
        free -= {"--epochs"}  # the rate ends with them
    if now["--scale-batch"] and now["--warmup-epochs"] is None:
        free -= {"--epochs"}  # the warm-up is as long as they are, if they are few
    free |= {name for name in now if name.startswith("version")} | {"test images"}
    return list(_differences(saved, now, free))


def _differences(a: Facts, b: Facts, ignored: Iterable[str]) -> Iterable[str]:
    for name in sorted((set(a) | set(b)) - set(ignored)):
        if a.get(name) != b.get(name):
            yield f"{name}: {b.get(name)} instead of {a.get(name)}"


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
