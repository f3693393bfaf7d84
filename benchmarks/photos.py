"""The images of the benchmarks: those that food5/sample.py generates, 512 px and about 44 KB, and
what cameras would make of them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Sequence

import cv2
import numpy as np
from PIL import Image

SAMPLE = Path(__file__).resolve().parent.parent / "food5" / "sample.py"
NUM_CLASSES, NUM_TRAIN, NUM_TEST = 5, 104, 40  # the latter per class
LARGE = 4000, 3000  # px, of a phone's 12 MP photo
NOISE = 4  # standard deviation of a camera's noise, of 255
ORIENTATION = 0x112  # Exif's tag


def default_folder() -> Path:
    """The folder of the generated images; generates them at the first call."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(home, "dist_ft", "benchmark-images")
    if not (root / "train").is_dir():
        counts = ["--train", str(NUM_TRAIN), "--test", str(NUM_TEST)]
        command = [sys.executable, str(SAMPLE), "--out", str(root), *counts]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return root


def kinds(paths: Sequence[Path], num_large: int) -> dict[str, list[bytes]]:
    """The images encoded as JPEGs of each kind that cameras, phones and editors write."""
    pictures = [Image.open(path).convert("RGB") for path in paths]
    files = {
        "no Exif": [_jpeg(picture) for picture in pictures],
        "Exif without orientation": [_jpeg(picture, exif=_exif()) for picture in pictures],
    }
    for orientation in (3, 6, 8):
        tags = _exif(orientation)
        files[f"orientation {orientation}"] = [_jpeg(picture, exif=tags) for picture in pictures]
    files["progressive"] = [_jpeg(picture, progressive=True) for picture in pictures]
    files["grayscale"] = [_jpeg(picture.convert("L")) for picture in pictures]
    files["12 MP, orientation 6"] = [large_photo(path, 6) for path in paths[:num_large]]
    return files


def large_folder(source: Path, num_photos: int) -> Path:
    """A folder beside `source` with its images enlarged to 12 MP; written at the first call.

    num_photos: to train on. Those to test on are a few.
    """
    root = source.with_name(f"{source.name}-12mp-{num_photos}")
    if not root.is_dir():
        temporary = root.with_name(f"{root.name}.{os.getpid()}")
        for split, number in (("train", num_photos), ("test", NUM_CLASSES)):
            paths = sorted((source / split).glob("*/*.jpg"), key=lambda path: path.name)
            for path in paths[:number]:
                target = temporary / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(large_photo(path, orientation=1))
        temporary.rename(root)
    return root


def large_photo(path: Path, orientation: int) -> bytes:
    """A JPEG of 12 MP: the image enlarged, with the noise of a camera."""
    with Image.open(path) as image:
        enlarged = cv2.resize(
            np.asarray(image.convert("RGB")), LARGE, interpolation=cv2.INTER_CUBIC
        )
    noisy = np.clip(enlarged + _noise(), 0, 255).astype(np.uint8)
    return _jpeg(Image.fromarray(noisy), exif=_exif(orientation))


@lru_cache(maxsize=1)
def _noise() -> np.ndarray:
    shape = LARGE[1], LARGE[0], 3
    return np.random.RandomState(0).normal(0, NOISE, shape).round().astype(np.int16)


def _jpeg(picture: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def _exif(orientation: int | None = None) -> Image.Exif:
    """A camera's usual tags: maker, model, resolution, software, date and, last, orientation."""
    tags = Image.Exif()
    tags.update({0x10F: "maker", 0x110: "model", 0x11A: 72.0, 0x11B: 72.0, 0x128: 2})
    tags.update({0x131: "software 1.0", 0x132: "2024:01:01 12:00:00", 0x213: 1})
    if orientation is not None:
        tags[ORIENTATION] = orientation
    return tags


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
