"""Make the stand-in for food5: five generated classes of photograph-like JPEGs of mixed sizes.

    python food5/sample.py --out food5 --train 60 --test 20

The classes carry food5's names and differ in what covers the plate: a lattice, bars, diamonds,
slices or grains. Light, scale, angle, blur and noise are drawn alike for all five and their colours
overlap, so the mean colour of a picture says little of its label: a network has to see structure.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import itertools
import math
import os
import shutil
import signal
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SPLITS = ("train", "test")
OLD = "old"  # in a folder of work: what is taken away, until all of the new is in its place
ASPECTS = (1.0, 0.75, 0.75, 0.75, 0.67, 0.56)  # short side / long side, as cameras give them
# EXIF orientation (tag 0x0112) -> how an upright picture lies in the file of a camera so held.
STORED_AS = {3: Image.ROTATE_180, 6: Image.ROTATE_90, 8: Image.ROTATE_270}


def tiles(draw, rng, pitch_px, fill, angle, shear=0.0):
    """Cover the canvas with jittered parallelograms in rows that run at angle (radians).

    pitch_px: (along, across) the rows; fill: the share of each pitch that a tile covers; shear: how
    far a tile leans, in pitches along the row for one pitch across it.
    """
    width, height = draw.im.size
    cos, sin = math.cos(angle), math.sin(angle)
    reach = math.hypot(width, height) / 2
    across, along = (int(reach / pitch) + 2 for pitch in reversed(pitch_px))
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2 * fill
    for row in range(-across, across + 1):
        # Leaning rows drift sideways; the remainder keeps them over the canvas.
        drift = math.fmod(row * shear, 1.0)
        for column in range(-along, along + 1):
            corners = square + rng.normal(0, 0.04, (4, 2))
            u = (column + drift + corners[:, 0] + shear * corners[:, 1]) * pitch_px[0]
            v = (row + corners[:, 1]) * pitch_px[1]
            x, y = width / 2 + u * cos - v * sin, height / 2 + u * sin + v * cos
            draw.polygon(list(zip(x.tolist(), y.tolist())), fill=int(rng.integers(140, 256)))


def rounds(draw, rng, unit_px, radius, rim):
    """Cover the canvas two or three times over with ellipses of about radius, in units of unit_px.

    rim: brightness step at the edge of each, 0..255; 0 draws none.
    """
    width, height = draw.im.size
    radius_px = radius * unit_px
    count = int(2.5 * width * height / (math.pi * radius_px**2)) + 1
    centres = rng.random((count, 2)) * (width, height)
    radii = radius_px * rng.uniform(0.7, 1.3, (count, 2))
    shades = rng.integers(90, 256, count)
    for (x, y), (a, b), shade in zip(centres.tolist(), radii.tolist(), shades.tolist()):
        edge = shade - rim if shade > 170 else shade + rim
        draw.ellipse((x - a, y - b, x + a, y + b), shade, edge, max(1, int(radius_px / 9)))


def lattice(draw, rng, unit_px):
    angle = rng.uniform(0, math.pi)
    tiles(draw, rng, (5 * unit_px, unit_px), (1.1, 0.45), angle)
    tiles(draw, rng, (5 * unit_px, unit_px), (1.1, 0.45), angle + math.pi / 2 + rng.normal(0, 0.15))


def bars(draw, rng, unit_px):
    tiles(draw, rng, (4 * unit_px, unit_px), (0.96, 0.72), rng.uniform(0, math.pi))


def diamonds(draw, rng, unit_px):
    lean = rng.choice([-1, 1]) * rng.uniform(0.45, 0.7)
    tiles(draw, rng, (unit_px, unit_px), (0.86, 0.86), rng.uniform(0, math.pi), lean)


slices = functools.partial(rounds, radius=0.9, rim=90)
grains = functools.partial(rounds, radius=0.2, rim=0)
DISHES = {  # what covers the plate, and the red, green and blue it adds to the food's colours
    "apple_pie": (lattice, (0.02, 0.05, 0.0)),
    "baby_back_ribs": (bars, (-0.04, -0.06, -0.04)),
    "baklava": (diamonds, (0.05, 0.03, -0.05)),
    "beef_carpaccio": (slices, (0.03, -0.08, 0.0)),
    "beef_tartare": (grains, (-0.02, -0.03, 0.05)),
}


def cloud(rng, size: tuple[int, int], cells: int) -> np.ndarray:
    """Smooth noise of mean 0, deviation about 0.5: (height, width) float32, cells blobs a side."""
    coarse = rng.normal(0, 1, (cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.BICUBIC))


def food(cover, rng, size: tuple[int, int]) -> np.ndarray:
    """Brightness of the food, (height, width) float32 about 0..1.2: its cover, worn by noise."""
    canvas = Image.new("L", size, int(rng.integers(20, 90)))
    cover(ImageDraw.Draw(canvas), rng, min(size) * rng.uniform(0.12, 0.22))
    canvas = canvas.filter(ImageFilter.GaussianBlur(min(size) * rng.uniform(0.002, 0.007)))
    relief = np.asarray(canvas, np.float32) / 255
    relief *= rng.uniform(0.7, 1.1)
    return relief + 0.08 * cloud(rng, size, 9) + 0.06 * cloud(rng, size, 70)


def colours(tint, rng) -> np.ndarray:
    """Dark food, bright food, plate and table: (4, 3) float32 in 0..1, warm as kitchens are.

    A class leans to its own tint by less than its pictures differ among themselves.
    """
    kitchen = np.array([[0.3, 0.14, 0.08], [0.85, 0.62, 0.4], [0.85, 0.84, 0.8], [0.42, 0.35, 0.3]])
    kitchen[:2] += tint
    kitchen += rng.normal(0, [[0.05], [0.09], [0.05], [0.12]], (4, 3))
    return np.clip(kitchen, 0, 1).astype(np.float32)


def photograph(name: str, rng, size: tuple[int, int]) -> Image.Image:
    """A picture of size (width, height) px of a plate on a table, covered by food of that name."""
    cover, tint = DISHES[name]
    dark, bright, plate, table = colours(tint, rng)
    covered = food(cover, rng, size)[..., None]
    width, height = size
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    centre_x, centre_y = rng.normal(0, 0.15, 2)
    stretch_x, stretch_y = rng.uniform(0.9, 1.4, 2)
    out = np.hypot((x - centre_x) / stretch_x, (y - centre_y) / stretch_y)
    edge = np.clip((out + 0.06 * cloud(rng, size, 8) - 0.8) * 25, 0, 1)[..., None]
    rim = np.clip((out - 1.0) * 40, 0, 1)[..., None]
    ground = plate + (table - plate) * rim + 0.05 * cloud(rng, size, 40)[..., None] * rim
    picture = (dark + (bright - dark) * covered) * (1 - edge) + ground * edge
    side_light, top_light = rng.normal(0, 0.15, 2)
    vignette = rng.uniform(0, 0.2) * (x * x + y * y)
    light = rng.uniform(0.75, 1.15) + side_light * x + top_light * y - vignette
    picture *= light[..., None] * rng.normal(1, 0.05, 3)
    grain = rng.standard_normal((height, width, 1), np.float32) * rng.uniform(0.01, 0.04)
    return Image.fromarray((np.clip(picture + grain, 0, 1) * 255).astype(np.uint8))


def jpeg(name: str, rng, side_px: int) -> bytes:
    """One picture as a camera or a web site would hand it over, its long side at most side_px.

    A quarter is portrait and a quarter carries EXIF; of these, half lie rotated in the file.
    """
    long_px = side_px if rng.random() < 0.8 else int(side_px * rng.uniform(0.7, 1))
    short_px = int(long_px * ASPECTS[rng.integers(len(ASPECTS))])
    size = (long_px, short_px) if rng.random() < 0.75 else (short_px, long_px)
    picture = photograph(name, rng, size)
    exif = Image.Exif()
    if rng.random() < 0.25:
        exif[0x0112] = orientation = int(rng.choice([1, 1, 1, 3, 6, 8]))
        if orientation in STORED_AS:
            picture = picture.transpose(STORED_AS[orientation])
    quality, progressive = int(rng.integers(72, 91)), bool(rng.random() < 0.2)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, progressive=progressive, exif=exif)
    return file.getvalue()


def write_one(root: Path, seed: int, side_px: int, which: tuple[str, str, int]) -> int:
    """Write one image, which = (split, class, number), and return its bytes.

    Its randomness is keyed by seed and which alone: neither the order, nor the number of processes,
    nor how many images are asked for changes it.
    """
    split, name, number = which
    rng = np.random.default_rng([seed, SPLITS.index(split), list(DISHES).index(name), number])
    return (root / split / name / f"{number:05d}.jpg").write_bytes(jpeg(name, rng, side_px))


def fill(root: Path, counts: dict[str, int], seed: int, side_px: int, num_workers: int):
    """Write counts[split] images a class below root and tell how far it is."""
    for split, name in itertools.product(SPLITS, DISHES):
        (root / split / name).mkdir(parents=True)
    todo = [(split, name, n) for split in SPLITS for name in DISHES for n in range(counts[split])]
    write = functools.partial(write_one, root, seed, side_px)
    total = 0
    deaf = (signal.SIGINT, signal.SIG_IGN)  # the parent alone answers Ctrl-C
    with ProcessPoolExecutor(num_workers, initializer=signal.signal, initargs=deaf) as pool:
        for done, size in enumerate(pool.map(write, todo, chunksize=4), start=1):
            total += size
            if done % 100 == 0 or done == len(todo):
                print(f"made {done} of {len(todo)} images, {total / 1e6:.1f} MB", flush=True)


def make(out: Path, counts: dict[str, int], seed: int, side_px: int, num_workers: int):
    """Put train/ and test/ into out, in place of those that are there; see fill and replacing."""
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out, ("test", "train"), ".sample-") as beside:
        fill(beside, counts, seed, side_px, num_workers)


@contextlib.contextmanager
def replacing(out: Path, names: Sequence[str], prefix: str) -> Iterator[Path]:
    """A folder in out for what is to be out/NAME, of each name, once the body has ended well.

    All of it takes the place of what is there, which is removed; or, where this raises, none, but
    for a KeyboardInterrupt that comes too late, which says so. The last of the names is the first
    to go and the last to come: who finds it finds all.
    """
    beside = Path(tempfile.mkdtemp(prefix=prefix, dir=str(out)))
    is_done = False
    try:
        yield beside
        with held_signals() as heard:
            swap(beside, out, names, heard)
            is_done = True
            shutil.rmtree(beside, ignore_errors=True)
        answer(heard)
    except KeyboardInterrupt as stop:
        what = "the new images are in place" if is_done else "nothing was changed"
        raise KeyboardInterrupt(f"interrupted; {what}") from stop
    finally:
        if is_done or not has_old(beside):  # else undo has failed
            shutil.rmtree(beside, ignore_errors=True)


def swap(beside: Path, out: Path, names: Sequence[str], heard: Sequence[int]):
    """Put beside/NAME in the place of out/NAME, of each name. Undone where it raises, or where a
    signal is heard."""
    (beside / OLD).mkdir()
    try:
        for name in reversed(names):
            if os.path.lexists(out / name):
                os.replace(out / name, beside / OLD / name)
        for name in names:
            answer(heard)
            os.replace(beside / name, out / name)
    except BaseException:
        undo(beside, out, names)
        raise


def undo(beside: Path, out: Path, names: Sequence[str]):
    """Take back those of the names that swap has put into out, and put back what was there."""
    try:
        for name in reversed(names):
            if os.path.lexists(out / name) and not os.path.lexists(beside / name):
                os.replace(out / name, beside / name)
        for name in names:
            if os.path.lexists(beside / OLD / name):
                os.replace(beside / OLD / name, out / name)
    except OSError as error:
        raise OSError(
            f"{error}: what was in {out} is not all there again: move the rest back from"
            f" {beside / OLD}"
        ) from error


def has_old(beside: Path) -> bool:
    """Whether something that swap has taken away is neither back nor removed."""
    return (beside / OLD).is_dir() and any((beside / OLD).iterdir())


@contextlib.contextmanager
def held_signals() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM only add their numbers to a list while the body runs."""
    heard: list[int] = []
    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):  # those that are ignored stay so
                before[number] = handler
                signal.signal(number, lambda number, _: heard.append(number))
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def answer(heard: Sequence[int]):
    """End as the first of the held signals asks for, if there is one."""
    if heard:
        raise KeyboardInterrupt if heard[0] == signal.SIGINT else SystemExit(128 + heard[0])


def at_least(least: int):
    """The argparse type of whole numbers from least."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return number


def parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Make a generated stand-in for food5: {train,test}/<class>/*.jpg.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    flag, cores = parser.add_argument, os.cpu_count()
    flag("--out", type=Path, default=Path(__file__).parent, help="folder to get train/ and test/")
    flag("--train", type=at_least(1), default=60, help="training images a class")
    flag("--test", type=at_least(1), default=20, help="test images a class")
    flag("--seed", type=at_least(0), default=0, help="the same seed gives the same pictures")
    flag("--side", type=at_least(32), default=512, help="longest side of an image, px")
    flag("--num-workers", type=at_least(1), default=cores, help="processes")
    flag("--overwrite", action="store_true", help="replace the images in --out")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    """Return the exit status: 0, 1 when nothing could or would be written, 130 after Ctrl-C."""
    args = parse(argv)
    counts = {"train": args.train, "test": args.test}
    try:
        for path in (path for split in SPLITS for path in (args.out / split).rglob("*")):
            if path.is_file() and not args.overwrite:
                raise FileExistsError(f"{path} exists; name another --out or say --overwrite")
        make(args.out, counts, args.seed, args.side, args.num_workers)
    except OSError as error:
        print(f"no images were made in {args.out}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"{args.out}: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 130
    print(f"{args.out}: {len(DISHES)} classes of {args.train} train and {args.test} test images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
