"""Prepares a data set ahead of training: fills the image cache, or writes RecordIO archives."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Iterator

import simplejpeg
from tqdm import tqdm

from dist_ft.data import image_cache, recordio
from dist_ft.data.dataset import Dataset, Split
from dist_ft.data.image import CorruptImage
from dist_ft.data.transforms import InputSpec
from dist_ft.errors import UserError
from dist_ft.files import user_errors

logger = logging.getLogger(__name__)


def fill_cache(
    dataset: Dataset, spec: InputSpec, side: int, folder: Path, num_workers: int
) -> None:
    """Decodes the images into those cache files in `folder` that are missing or out of date.

    side: shorter side of a cached training image, px. Raises UserError.
    """
    for file in image_cache.cache_files(dataset, spec, side, folder).values():
        if file.is_valid():
            logger.info(f"{file.path}: up to date")
            continue
        with _progress_bar(file.split, "decoding") as bar:
            image_cache.build(file, num_workers, bar.update)
        logger.info(f"{file.path}: {file.path.stat().st_size / 1e6:,.0f} MB")


def write_archives(dataset: Dataset, out: Path, side: int, quality: int) -> None:
    """Writes an archive of each split, as train.rec, and classes.txt to the folder `out`.

    side: images whose shorter side is larger, px, are reduced to it and encoded as JPEG of the
    given quality, 1..100; 0 keeps all files as they are. Leaves out unreadable images. Raises
    UserError.
    """
    broken = [name for name in dataset.classes if "\n" in name or "\r" in name]
    if broken:
        raise UserError(f"--recordio: classes.txt has one class per line; rename {broken[0]!a}")
    if dataset.val is None and (out / "val.rec").exists():
        raise UserError(f"--recordio {out}: has a val.rec, of other images; remove it")
    with user_errors(f"--recordio {out}"):
        out.mkdir(parents=True, exist_ok=True)
        for name, split in dataset.splits.items():
            with _progress_bar(split, name) as bar:
                recordio.write_archive(out / name, _encoded_images(split, side, quality, bar))
            archive = out / f"{name}.rec"
            logger.info(f"{archive}: {archive.stat().st_size / 1e6:,.0f} MB")
        names = "".join(f"{name}\n" for name in dataset.classes)
        (out / "classes.txt").write_text(names, encoding="utf-8", errors="surrogateescape")


def _encoded_images(
    split: Split, side: int, quality: int, bar: tqdm
) -> Iterator[tuple[int, bytes]]:
    for index, label in enumerate(split.labels):
        bar.update()
        try:
            if side:
                pixels = image_cache.load_resized(split, side, index)
                data = simplejpeg.encode_jpeg(pixels, quality=quality)
            else:
                data = split.read(index)
        except (CorruptImage, OSError) as error:
            logger.warning(f"left out {split.root / split.paths[index]}: {error}")
            continue
        yield label, data


def _progress_bar(split: Split, description: str) -> tqdm:
    return tqdm(total=len(split), desc=description, unit="image", disable=None)  # on a terminal
