"""Makes the benchmarks' images: photograph-like JPEGs of 512 x about 400 px, about 44 KB each.

    python -m benchmarks.photos --out DIR --from FOLDER     mosaics of the real images below FOLDER
    python -m benchmarks.photos --out DIR                   food5/sample.py's generated ones

FOLDER has train/CLASS/* and test/CLASS/*, of images of any size. DIR gets the same classes.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import Image

SPLITS = ("train", "test")
GRID = (4, 3)  # tiles of a mosaic, across and down
TILE = (128, 133)  # px, so that it is 512 x 399
NUM_BYTES = 44_000  # of a mosaic's JPEG, about
QUALITIES = range(95, 20, -3)  # tried in turn
SAMPLE = Path(__file__).resolve().parent.parent / "food5" / "sample.py"


def kept() -> Path:
    """The generated images, made where they are not there yet, and kept from run to run."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(home, "dist_ft", "benchmark-images")
    if not (root / "train").is_dir():
        generate(root, num_train=520, num_test=200)
    return root


def generate(out: Path, num_train: int, num_test: int) -> None:
    """Generated images of five classes. Raises CalledProcessError."""
    counts = ["--train", str(-(-num_train // 5)), "--test", str(-(-num_test // 5))]
    command = [sys.executable, str(SAMPLE), "--out", str(out), *counts]
    subprocess.run(command, check=True, stdout=sys.stderr)


def tile(source: Path, out: Path, num_train: int, num_test: int, seed: int = 0) -> None:
    """Mosaics of a folder's images, each of one class. Raises ValueError where a class has none.

    They are made in a folder beside and moved when complete.
    """
    with tempfile.TemporaryDirectory(prefix=".photos-", dir=out.parent) as beside:
        for split, num in zip(SPLITS, (num_train, num_test)):
            classes = sorted(path for path in (source / split).iterdir() if path.is_dir())
            for number in range(num):
                label = classes[number % len(classes)]
                rng = np.random.default_rng([seed, SPLITS.index(split), number])
                folder = Path(beside, "new", split, label.name)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{number:05d}.jpg").write_bytes(encoded(mosaic(label, rng)))
        os.replace(Path(beside, "new"), out)  # fails where there is something already


def mosaic(label: Path, rng: np.random.Generator) -> Image.Image:
    """Images of a class, drawn at random, side by side."""
    paths = sorted(path for path in label.iterdir() if path.is_file())
    if not paths:
        raise ValueError(f"{label}: no images to make mosaics of")
    across, down = GRID
    canvas = Image.new("RGB", (across * TILE[0], down * TILE[1]))
    for place, choice in enumerate(rng.integers(len(paths), size=across * down)):
        corner = place % across * TILE[0], place // across * TILE[1]
        with Image.open(paths[choice]) as picture:
            canvas.paste(picture.convert("RGB").resize(TILE, Image.BICUBIC), corner)
    return canvas


def encoded(picture: Image.Image) -> bytes:
    """As a JPEG of at most NUM_BYTES, or of the lowest quality that is tried."""
    data = b""
    for quality in QUALITIES:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        data = file.getvalue()
        if len(data) <= NUM_BYTES:
            break
    return data


def described(root: Path) -> str:
    """How many images a data set has, and how large the first of them is. Raises ValueError where
    it has none."""
    train, test = (sorted((root / split).glob("*/*")) for split in SPLITS)
    if not train or not test:
        raise ValueError(f"{root}: needs images as train/CLASS/*.jpg and test/CLASS/*.jpg")
    kilobytes = sum(path.stat().st_size for path in train) / 1e3 / len(train)
    with Image.open(train[0]) as first:
        width, height = first.size
    return (
        f"{len(train)} to train on and {len(test)} to test on, {kilobytes:.0f} KB each,"
        f" the first {width} x {height} px"
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.photos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag("--out", type=Path, required=True, help="folder to make")
    flag("--from", dest="source", type=Path, help="folder of real images")
    flag("--train", type=int, default=520, help="images to train on (default: 520)")
    flag("--test", type=int, default=200, help="images to test on (default: 200)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    if args.source:
        try:
            tile(args.source, args.out, args.train, args.test)
        except (OSError, ValueError) as error:
            sys.exit(f"no images were made in {args.out}: {error}")
    else:
        generate(args.out, args.train, args.test)
    print(f"{args.out}: {described(args.out)}")


if __name__ == "__main__":
    main()
