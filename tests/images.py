"""Generates folders of small images whose classes a small network can tell apart."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import Image

GOLDEN_ANGLE = 2.4  # radians: multiples of it are never close to each other


def make_folder(
    root: Path,
    train: Sequence[int],
    test: Sequence[int],
    side: int = 40,
    seed: int = 0,
    val: Sequence[int] = (),
) -> Path:
    """Writes root/train/class_a/000.jpg and so on; returns root.

    train, test, val: number of images per class. Every fourth image is a PNG. An image depends only
    on (seed, split, class, number), and no two are the same.
    """
    for split, (split_name, counts) in enumerate((("train", train), ("test", test), ("val", val))):
        for label, count in enumerate(counts):
            folder = root / split_name / f"class_{string.ascii_lowercase[label]}"
            folder.mkdir(parents=True)
            for number in range(count):
                rng = np.random.RandomState([seed, split, label, number])
                image = Image.fromarray(picture(label, side, rng))
                if number % 4 == 3:
                    image.save(folder / f"{number:03}.png", compress_level=1)
                else:
                    image.save(folder / f"{number:03}.jpg", quality=90)
    return root


def read_tree(root: Path) -> dict[str, bytes]:
    """The contents of all files below `root`, by relative path."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def picture(label: int, side: int, rng: np.random.RandomState) -> np.ndarray:
    """(h, w, 3) uint8 of about `side` px: noisy stripes, whose direction, width and, loosely,
    color are those of the class."""
    height, width = side + rng.randint(0, side // 4 + 1, 2)
    y, x = np.mgrid[:height, :width] / side
    angle, stripes = label * GOLDEN_ANGLE, 3 + 2 * (label % 3)
    phase = stripes * (x * np.cos(angle) + y * np.sin(angle)) + rng.rand()
    wave = np.sin(2 * np.pi * phase)
    hue = np.cos(angle + 2 * np.pi * np.arange(3) / 3)
    brightness = 128 + rng.uniform(-20, 20) + 60 * wave[..., None] * rng.uniform(0.6, 1)
    noise = rng.normal(0, 12, (height, width, 3))
    return np.clip(brightness + 35 * hue + noise, 0, 255).astype(np.uint8)
