"""A sheet of the images that the network sees in the first step of a run (--preview)."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Sequence

from PIL import Image, ImageDraw, ImageFont

from dist_ft import files
from dist_ft.config import Config
from dist_ft.data.loader import Batch
from dist_ft.data.transforms import InputSpec
from dist_ft.distributed.world import World
from dist_ft.text import on_one_line
from dist_ft.training.inputs import open_images, read_dataset
from dist_ft.training.schedule import build_schedule

COLUMNS, MAX_ROWS = 8, 4
MIN_SIDE_PX = 192  # of an enlarged image
GAP_PX, CAPTION_PX, FONT_PX = 8, 44, 16
MAX_CAPTION_CHARS = 16  # of a class name

logger = logging.getLogger(__name__)


def write(config: Config, world: World) -> None:
    """Writes the sheet to the file of --preview, the same one for any number of ranks.

    Makes no network, and does not touch the run's folder. All ranks must call this. Raises
    CollectiveError on all of them.
    """
    dataset, run_spec = read_dataset(config, world)
    plan, _ = build_schedule(config, config.batch_size, len(dataset.train), world.size)
    spec = InputSpec(config.image_size, config.resize_px, config.keep_ratio)
    batches = open_images(config, dataset, spec, run_spec, world)
    with world.raise_on_all_ranks():
        if world.is_main:
            batches = replace(batches, rank=0, size=1)  # sees the whole step
            (batch,) = batches.train(0, [plan.images_of(0)])
            batches.close()
            path = Path(config.preview)
            image_format = "PNG" if path.suffix.lower() == ".png" else "JPEG"
            with files.output_file(path, "--preview") as temporary:
                sheet(batch, dataset.classes).save(temporary, image_format, quality=95)
            num_shown = min(len(batch.x), COLUMNS * MAX_ROWS)
            logger.info(f"{path}: {num_shown} of the {len(batch.x)} images of the first step")


def sheet(batch: Batch, classes: Sequence[str]) -> Image.Image:
    """The first images of a training batch, each above the names and shares of its classes.

    Small images are enlarged without interpolation; others have their own pixels.
    """
    texts = captions(batch, classes)
    num_rows = -(-len(texts) // COLUMNS)
    side = batch.x.shape[1] * max(1, MIN_SIDE_PX // batch.x.shape[1])
    width, height = side + GAP_PX, side + CAPTION_PX
    drawn = Image.new("RGB", (COLUMNS * width, num_rows * height), "white")
    draw = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(FONT_PX)
    for number, text in enumerate(texts):
        left, top = number % COLUMNS * width, number // COLUMNS * height
        tile = Image.fromarray(batch.x[number]).resize((side, side), Image.Resampling.NEAREST)
        drawn.paste(tile, (left, top))
        draw.multiline_text((left, top + side), text, "black", font)
    return drawn


def captions(batch: Batch, classes: Sequence[str]) -> list[str]:
    """For each image of the sheet, its class, or two classes and their shares."""
    names = [on_one_line(name)[:MAX_CAPTION_CHARS] for name in classes]
    texts = []
    for row in range(min(len(batch.x), COLUMNS * MAX_ROWS)):
        name, share = names[batch.labels[row]], 0.0
        if batch.partner_share is not None:
            share = batch.partner_share[row]
        if not batch.mask[row]:
            name = "cannot be read"
        elif share:
            name = f"{name} {1 - share:.0%}\n{names[batch.labels[row ^ 1]]} {share:.0%}"
        texts.append(name)
    return texts
