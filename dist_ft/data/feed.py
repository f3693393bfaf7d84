"""This rank's batches of a folder: the shares of each training step, and of the test images."""

from __future__ import annotations

from typing import Iterable, Iterator

import numpy as np

from dist_ft.data import image, shard
from dist_ft.data.folder import Folder
from dist_ft.data.loader import Batch, Loader

TEST_BATCH = 50  # images a rank scores at once, for any number of ranks: scores do not depend on it


class Feed:
    """Batches for rank `rank` of `size`; side and resize are px, as `image` takes them."""

    def __init__(
        self,
        folder: Folder,
        side: int,
        resize: int,
        keep_ratio: bool,
        seed: int,
        rank: int,
        size: int,
        num_workers: int,
    ):
        self.folder, self.seed = folder, seed
        self.side, self.resize, self.keep_ratio = side, resize, keep_ratio
        self.rank, self.size = rank, size
        self.train_loader = Loader(folder.train, side, num_workers)
        self.test_loader = Loader(folder.test, side, num_workers)

    def train(self, epoch: int, slices: Iterable[slice]) -> Iterator[Batch]:
        """Augmented batches of an epoch's steps; a slice says which part of its order a step is."""
        order = shard.train_order(self.seed, epoch, len(self.folder.train))

        def view(pixels: np.ndarray, index: int) -> np.ndarray:
            draws = shard.image_draws(self.seed, epoch, index, image.NUM_DRAWS)
            return image.train_view(pixels, self.side, draws)

        shares = (shard.rank_share(order[part], self.rank, self.size) for part in slices)
        self.train_loader.bad.clear()
        return self.train_loader.batches(shares, view)

    def test(self) -> Iterator[Batch]:
        """The test images in order, in batches of TEST_BATCH rows."""
        shares = shard.test_shares(len(self.folder.test), TEST_BATCH, self.rank, self.size)
        self.test_loader.bad.clear()
        return self.test_loader.batches(
            shares,
            lambda pixels, _: image.test_view(pixels, self.side, self.resize, self.keep_ratio),
        )

    def close(self) -> None:
        self.train_loader.close()
        self.test_loader.close()
