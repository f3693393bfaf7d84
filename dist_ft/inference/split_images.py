"""Batches of a split's images as a test shows them to the network, in one process."""

from __future__ import annotations

from typing import Iterator

import numpy as np

from dist_ft.data import decoding, transforms
from dist_ft.data.dataset import Split
from dist_ft.data.loader import Batch, Loader
from dist_ft.data.rank_batches import TEST_BATCH_SIZE
from dist_ft.data.transforms import InputSpec
from dist_ft.inference.inputs import PREFETCH_MB


def split_batches(
    split: Split, spec: InputSpec, num_workers: int, every: int = 1
) -> Iterator[Batch]:
    """The readable ones among every so many images; the last batch may be smaller."""

    def fill(index: int, row: np.ndarray) -> None:
        row[:] = transforms.center_crop(decoding.decode(split.read(index)), *spec)

    indices = np.arange(0, len(split), every)
    parts = np.split(indices, range(TEST_BATCH_SIZE, len(indices), TEST_BATCH_SIZE))
    shares = ((part, np.ones(len(part), np.float32)) for part in parts)
    loader = Loader(split, spec.side, num_workers, PREFETCH_MB)
    try:
        for batch in loader.batches(shares, fill):
            real = batch.mask > 0
            if real.any():
                yield Batch(
                    batch.x[real], batch.labels[real], batch.mask[real], batch.indices[real]
                )
    finally:
        loader.close()
