"""Decodes a data set ahead of time: `python -m dist_ft.pack DATA`, or into RecordIO archives.

Without --recordio it fills the cache that `dist_ft.train --cache disk` uses, so that the first
epoch need not wait for it. With it, train.rec and test.rec are written, as MXNet's im2rec would:
`--data` takes their folder as it takes a folder of images.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Iterator

import simplejpeg
from tqdm import tqdm

from dist_ft.config import Config
from dist_ft.data import image_cache, recordio
from dist_ft.data.dataset import Dataset, Split
from dist_ft.data.decoding import CorruptImage
from dist_ft.data.image_folder import scan
from dist_ft.data.transforms import InputSpec
from dist_ft.distributed import launcher
from dist_ft.errors import UserError
from dist_ft.settings import ConfigError, flag_of

SETTINGS = ("image_size", "resize", "cache_side", "cache_dir")  # those of train that matter here


def fill_cache(config: Config, folder: Dataset) -> None:
    """Makes the packs that are not there yet, or are of another state of the images."""
    views = InputSpec(config.image_size, config.resize_px, config.keep_ratio)
    for wanted in image_cache.cache_files(folder, views, config.cache_side_px, config.cache_folder):
        if wanted.is_there():
            print(f"{wanted.path}: up to date")
            continue
        with _bar(wanted.split, "decoding") as bar:
            image_cache.build(wanted, launcher.usable_cores(), bar.update)
        print(f"{wanted.path}: {wanted.path.stat().st_size / 1e6:,.0f} MB")


def write_archives(folder: Dataset, out: Path, side: int, quality: int) -> None:
    """train and test as RecordIO in `out`, with the names of the classes in classes.txt.

    side: px that a larger image's shorter side is resized to, and encoded anew with `quality`
    (1..100); 0: the files as they are.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, split in (("train", folder.train), ("test", folder.test)):
        with _bar(split, name) as bar:
            recordio.write_archive(out / name, _encoded(split, side, quality, bar))
        print(f"{out / name}.rec: {(out / name).with_suffix('.rec').stat().st_size / 1e6:,.0f} MB")
    names = "".join(f"{name}\n" for name in folder.classes)
    (out / "classes.txt").write_text(names, encoding="utf-8", errors="surrogateescape")


def _encoded(split: Split, side: int, quality: int, bar: tqdm) -> Iterator[tuple[int, bytes]]:
    for index, label in enumerate(split.labels):
        bar.update()
        if not side:
            yield label, split.read(index)
            continue
        try:
            pixels = image_cache.load_resized(split, side, index)
        except (CorruptImage, OSError) as error:
            print(f"left out: {split.root / split.paths[index]}: {error}", file=sys.stderr)
            continue
        yield label, simplejpeg.encode_jpeg(pixels, quality=quality)


def _bar(split: Split, what: str) -> tqdm:
    return tqdm(total=len(split), desc=what, unit="image", disable=None)  # None: not in a pipe


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dist_ft.pack",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", help="folder of images")
    for field in fields(Config):
        if field.name in SETTINGS:
            parser.add_argument(
                flag_of(field.name), type=type(field.default), help=field.metadata["help"]
            )
    parser.add_argument("--keep-ratio", action="store_true", help="as of dist_ft.train")
    parser.add_argument("--recordio", metavar="DIR", type=Path, help="write archives there instead")
    parser.add_argument("--side", type=int, default=0, help="of archives: shorter side, px; 0: all")
    parser.add_argument("--quality", type=int, default=95, help="of archives with --side, 1..100")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    out, side, quality = given.pop("recordio", None), given.pop("side"), given.pop("quality")
    try:
        config = Config(**given, cache="disk")
        folder = scan(config.data)
        if out:
            write_archives(folder, out, side, quality)
        else:
            fill_cache(config, folder)
    except ConfigError as error:
        parser.error(str(error))
    except UserError as error:
        sys.exit(f"dist_ft: {error}")


if __name__ == "__main__":
    main()
