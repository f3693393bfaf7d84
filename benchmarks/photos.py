"""The images of the benchmarks: those that food5/sample.py generates, 512 px and about 44 KB."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

SAMPLE = Path(__file__).resolve().parent.parent / "food5" / "sample.py"
NUM_TRAIN, NUM_TEST = 104, 40  # per class


def default_folder() -> Path:
    """The folder of the generated images; generates them at the first call."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(home, "dist_ft", "benchmark-images")
    if not (root / "train").is_dir():
        counts = ["--train", str(NUM_TRAIN), "--test", str(NUM_TEST)]
        command = [sys.executable, str(SAMPLE), "--out", str(root), *counts]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return root


def describe(root: Path) -> str:
    """The number and size of a folder's images. Raises ValueError if there are none."""
    train, test = (sorted((root / split).glob("*/*")) for split in ("train", "test"))
    if not train or not test:
        raise ValueError(f"{root}: needs images as train/CLASS/*.jpg and test/CLASS/*.jpg")
    kilobytes = sum(path.stat().st_size for path in train) / 1e3 / len(train)
    with Image.open(train[0]) as first:
        width, height = first.size
    return (
        f"{len(train)} to train on and {len(test)} to test on, {kilobytes:.0f} KB each,"
        f" the first {width} x {height} px"
    )
