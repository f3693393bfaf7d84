"""Image folders made in no time: small pictures that a small network can tell apart."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import Image


def make_folder(
    root: Path, train: Sequence[int], test: Sequence[int], side: int = 40, seed: int = 0
) -> Path:
    """root/train/class_a/000.jpg and so on: a class for each entry, with that many images.

    Every fourth is a PNG. The pictures of a class share a direction and a width of stripes and,
    loosely, a colour; no two pictures are alike, and a picture depends on (seed, split, class,
    number) alone. Returns root.
    """
    for split, counts in enumerate((train, test)):
        for label, count in enumerate(counts):
            directory = root / ("train", "test")[split] / f"class_{string.ascii_lowercase[label]}"
            directory.mkdir(parents=True)
            for number in range(count):
                chance = np.random.RandomState([seed, split, label, number])
                image = Image.fromarray(picture(label, side, chance))
                if number % 4 == 3:
                    image.save(directory / f"{number:03}.png", compress_level=1)
                else:
                    image.save(directory / f"{number:03}.jpg", quality=90)
    return root


def picture(label: int, side: int, chance: np.random.RandomState) -> np.ndarray:
    """(h, w, 3) uint8 of about `side` px: the class's stripes in noise and a random light."""
    height, width = side + chance.randint(0, side // 4 + 1, 2)
    y, x = np.mgrid[:height, :width] / side
    angle, stripes = label * 2.4, 3 + 2 * (label % 3)  # 2.4: the golden angle, no two near
    wave = np.sin(2 * np.pi * (stripes * (x * np.cos(angle) + y * np.sin(angle)) + chance.rand()))
    hue = np.cos(angle + 2 * np.pi * np.arange(3) / 3)
    light = 128 + chance.uniform(-20, 20) + 60 * wave[..., None] * chance.uniform(0.6, 1)
    noise = chance.normal(0, 12, (height, width, 3))
    return np.clip(light + 35 * hue + noise, 0, 255).astype(np.uint8)
