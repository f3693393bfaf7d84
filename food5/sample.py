"""Generates a stand-in for food5: five classes of photograph-like JPEGs of mixed sizes.

    python food5/sample.py --out food5 --train 60 --test 20

The classes have the names of food5 and differ in the texture of the food: a lattice, bars,
diamonds, slices or grains. Light, scale, angle, blur, noise and colors vary alike in all five,
so a network has to learn structure.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from replacement import existing_file, recover, replacing

SPLITS = ("train", "test")
NAMES = ("test", "train")  # in the order in which they are replaced
PREFIX = ".sample-"
REAL_ONLY = "split.csv"  # the table of the real images, which prepare.py writes
ASPECTS = (1.0, 0.75, 0.75, 0.75, 0.67, 0.56)  # short side / long side, as cameras produce them
ORIENTATION = 0x0112  # Exif tag; a camera that is held so stores an upright picture transposed:
STORED_AS = {3: Image.ROTATE_180, 6: Image.ROTATE_90, 8: Image.ROTATE_270}


def wave(x):
    return 0.5 + 0.5 * np.cos(2 * np.pi * x)


def discs(u, v, rng, radius: float):
    """Discs of random brightness, one around a jittered point of each cell of a grid."""
    cell = 1.2 * radius
    row, column = np.floor(v / cell).astype(int), np.floor(u / cell).astype(int)
    jitter = rng.random((3, 64, 64))
    brightness = np.zeros_like(u)
    for i, j in itertools.product((-1, 0, 1), repeat=2):
        x, y, shade = jitter[:, (row + i) % 64, (column + j) % 64]
        distance = np.hypot(u - (column + j + x) * cell, v - (row + i + y) * cell)
        inside = distance < radius * (0.7 + 0.3 * shade)
        brightness = np.where(inside, 0.3 + 0.7 * shade * (distance / radius) ** 2, brightness)
    return brightness


# Texture of each class, and its tint. (u, v) are rotated coordinates in units of the pattern.
DISHES = {
    "apple_pie": (lambda u, v, rng: np.maximum(wave(u), wave(v)) ** 4, (0.02, 0.05, 0.0)),
    "baby_back_ribs": (lambda u, v, rng: wave(u) ** 0.5, (-0.04, -0.06, -0.04)),
    "baklava": (lambda u, v, rng: wave(u) * wave(v + 0.5 * u), (0.05, 0.03, -0.05)),
    "beef_carpaccio": (partial(discs, radius=0.9), (0.03, -0.08, 0.0)),
    "beef_tartare": (partial(discs, radius=0.25), (-0.02, -0.03, 0.05)),
}


def smooth_noise(rng, size: tuple[int, int], cells: int) -> np.ndarray:
    """(height, width) float32 of mean 0 and standard deviation of about 0.5."""
    coarse = rng.normal(0, 1, (cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.BICUBIC))


def photograph(name: str, rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A picture of `size` (width, height) px: a plate on a table, covered by the named food."""
    texture, tint = DISHES[name]
    width, height = size
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    y, x = y * height / min(size) / 2, x * width / min(size) / 2  # the shorter side is 1
    angle, pitch = rng.uniform(0, 2 * np.pi), rng.uniform(0.12, 0.22)
    warped_x, warped_y = (axis + 0.02 * smooth_noise(rng, size, 8) for axis in (x, y))
    u = (warped_x * np.cos(angle) + warped_y * np.sin(angle)) / pitch
    v = (warped_y * np.cos(angle) - warped_x * np.sin(angle)) / pitch
    food = texture(u, v, rng) * rng.uniform(0.7, 1.1) + 0.1 * smooth_noise(rng, size, 9)

    dark, bright, plate, table = np.clip(
        [[0.3, 0.14, 0.08], [0.85, 0.62, 0.4], [0.85, 0.84, 0.8], [0.42, 0.35, 0.3]]
        + np.outer([1, 1, 0, 0], tint)
        + rng.normal(0, [[0.05], [0.09], [0.05], [0.12]], (4, 3)),
        *(0, 1),
    )
    center_x, center_y = rng.normal(0, 0.05, 2)
    radius = np.hypot(x - center_x, y - center_y) / rng.uniform(0.5, 0.7)
    radius = radius[..., None] + 0.03 * smooth_noise(rng, size, 8)[..., None]
    picture = np.where(radius < 0.85, dark + (bright - dark) * food[..., None], plate)
    picture = np.where(radius < 1, picture, table + 0.05 * smooth_noise(rng, size, 40)[..., None])

    slope_x, slope_y = rng.normal(0, 0.25, 2)
    light = rng.uniform(0.75, 1.1) + slope_x * x + slope_y * y
    picture = picture * light[..., None] * rng.normal(1, 0.05, 3)
    picture += rng.standard_normal((height, width, 1), np.float32) * rng.uniform(0.01, 0.05)
    return Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8))


def write_image(root: Path, seed: int, side_px: int, image: tuple[str, str, int]) -> None:
    """Writes one JPEG, which depends on these arguments alone: a quarter are portraits, a quarter
    have Exif data, and half of those are stored rotated.

    image: its split, class and number.
    """
    split, name, number = image
    rng = np.random.default_rng([seed, SPLITS.index(split), list(DISHES).index(name), number])
    long_px = side_px if rng.random() < 0.8 else int(side_px * rng.uniform(0.7, 1))
    short_px = int(long_px * rng.choice(ASPECTS))
    size = (short_px, long_px) if rng.random() < 0.25 else (long_px, short_px)
    picture, exif = photograph(name, rng, size), Image.Exif()
    if rng.random() < 0.25:
        exif[ORIENTATION] = orientation = int(rng.choice([1, 1, 1, 3, 6, 8]))
        if orientation in STORED_AS:
            picture = picture.transpose(STORED_AS[orientation])
    path = root / split / name / f"{number:05d}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=int(rng.integers(72, 91)), exif=exif)


def generate(root: Path, counts: dict[str, int], seed: int, side_px: int, num_workers: int) -> None:
    """Writes counts[split] images of each class below `root`, and prints the progress."""
    images = [(split, name, n) for split in SPLITS for name in DISHES for n in range(counts[split])]
    write = partial(write_image, root, seed, side_px)
    with ProcessPoolExecutor(num_workers, initializer=_reset_signals) as pool:
        for start in range(0, len(images), 100):  # a stopped run waits for those submitted
            part = images[start : start + 100]
            list(pool.map(write, part, chunksize=4))
            print(f"generated {start + len(part)} of {len(images)} images", flush=True)


def _reset_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C, which all processes get
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Generate a stand-in for food5: {train,test}/<class>/*.jpg.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    flag = parser.add_argument
    flag("--out", type=Path, default=Path(__file__).parent, help="folder for train/ and test/")
    flag("--train", type=int, default=60, help="training images per class")
    flag("--test", type=int, default=20, help="test images per class")
    flag("--seed", type=int, default=0, help="the same seed gives the same images")
    flag("--side", type=int, default=512, help="longest side of an image, px")
    flag("--num-workers", type=int, default=os.cpu_count(), help="processes")
    flag("--overwrite", action="store_true", help="replace the images in --out")
    args = parser.parse_args()
    for name, least in {"train": 1, "test": 1, "seed": 0, "side": 32, "num_workers": 1}.items():
        value = getattr(args, name)
        if value < least:
            parser.error(f"--{name.replace('_', '-')} {value}: must be at least {least}")
    return args


def main() -> None:
    """Exits with status 1 if nothing was written, 130 after Ctrl-C, 143 after SIGTERM."""
    args = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # removes the temporary folder
    counts = {"train": args.train, "test": args.test}
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        recover(args.out, NAMES, PREFIX)
        existing = existing_file(args.out, SPLITS)
        if existing and not args.overwrite:
            sys.exit(f"{existing} exists; choose another --out, or pass --overwrite")
        with replacing(args.out, NAMES, PREFIX) as temporary:
            generate(temporary, counts, args.seed, args.side, args.num_workers)
        (args.out / REAL_ONLY).unlink(missing_ok=True)
    except OSError as error:
        sys.exit(f"no images were generated in {args.out}: {error}")
    except KeyboardInterrupt:
        print(f"{args.out}: interrupted", file=sys.stderr)
        sys.exit(130)
    print(f"{args.out}: {len(DISHES)} classes of {args.train} train and {args.test} test images")


if __name__ == "__main__":
    main()
