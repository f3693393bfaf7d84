"""Measures what each part of the augmentation of training images costs."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import suppress
from typing import Any, Callable

import numpy as np

from dist_ft.data import sampler
from dist_ft.data.augmentation import changes, crop
from dist_ft.data.image import CorruptImage
from dist_ft.data.rank_batches import RankBatches

CROP, MIX = "decode, crop and flip", "mixup and cutmix"


def measure(batches: RankBatches, max_images: int) -> dict[str, float]:
    """CPU time per image, us: to read, decode and crop it, and for each further operation."""
    a, side, mix = batches.augmentation, batches.spec.side, batches.mix(0)
    pixels, partner = np.zeros((2, side, side, 3), np.uint8)
    times_s: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, part: Callable[..., Any], *arguments: Any) -> Any:
        start = time.thread_time()
        result = part(*arguments)
        times_s[name].append(time.thread_time() - start)
        return result

    def load(index: int) -> np.ndarray:
        draws = sampler.image_draws(batches.seed, 0, index, a.num_draws)
        crop(batches.train_image(index), draws, pixels, a)
        return draws

    for index in range(min(len(batches.dataset.train), max_images)):
        with suppress(CorruptImage, OSError):
            draws = timed(CROP, load, index)
            for name, change in changes(a).items():
                pixels[:] = timed(name, change, pixels, draws)
            if mix:
                timed(MIX, mix, index, pixels, partner)
    costs_us = {name: 1e6 * float(np.mean(times)) for name, times in times_s.items()}
    return {name: cost / 2 if name == MIX else cost for name, cost in costs_us.items()}  # of a pair
