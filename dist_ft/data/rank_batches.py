"""This rank's batches of a data set: the shares of each training step, and of the test images."""

from __future__ import annotations

from typing import Callable, Iterable, Iterator

import numpy as np

from dist_ft.data import decoding, sampler, transforms
from dist_ft.data.dataset import Dataset, Split
from dist_ft.data.loader import Batch, Loader
from dist_ft.data.pixel_file import Pack
from dist_ft.data.transforms import InputSpec

TEST_BATCH = 50  # images a rank scores at once, for any number of ranks: scores do not depend on it


def as_tested(split: Split, index: int, views: InputSpec) -> np.ndarray:
    """(side, side, 3) uint8: an image as the network is tested on it; blank where it can be read no
    more."""
    try:
        return transforms.test_view(decoding.decode(split.read(index)), *views)
    except (decoding.CorruptImage, OSError):
        return np.full((views.side, views.side, 3), decoding.BLANK, np.uint8)


class RankBatches:
    """Batches for rank `rank` of `size`.

    packs: where the decoded images of train and test are kept, if anywhere.
    """

    def __init__(
        self,
        folder: Dataset,
        views: InputSpec,
        seed: int,
        rank: int,
        size: int,
        num_workers: int,
        prefetch_mb: float,
        packs: tuple[Pack, Pack] | None = None,
    ):
        self.folder, self.views, self.seed = folder, views, seed
        self.rank, self.size = rank, size
        self.train_loader, self.test_loader = (
            Loader(split, views.side, num_workers, prefetch_mb)
            for split in (folder.train, folder.test)
        )
        self._packs = packs

    def train(self, epoch: int, slices: Iterable[slice]) -> Iterator[Batch]:
        """Augmented batches of an epoch's steps; a slice says which part of its order a step is."""
        self.train_loader.bad.clear()
        return self.train_loader.batches(self.train_shares(epoch, slices), self._augmented(epoch))

    def view(self, epoch: int) -> Iterator[Batch]:
        """The training images in order, augmented as in an epoch, in batches of TEST_BATCH rows."""
        shares = sampler.test_shares(len(self.folder.train), TEST_BATCH, self.rank, self.size)
        self.train_loader.bad.clear()
        return self.train_loader.batches(shares, self._augmented(epoch))

    def test(self) -> Iterator[Batch]:
        """The test images in order, in batches of TEST_BATCH rows."""
        self.test_loader.bad.clear()
        return self.test_loader.batches(self.test_shares(), self._centred())

    def train_shares(self, epoch: int, slices: Iterable[slice]) -> Iterator[sampler.Share]:
        order = sampler.train_order(self.seed, epoch, len(self.folder.train))
        return (sampler.rank_share(order[part], self.rank, self.size) for part in slices)

    def test_shares(self) -> Iterator[sampler.Share]:
        return sampler.test_shares(len(self.folder.test), TEST_BATCH, self.rank, self.size)

    def close(self) -> None:
        self.train_loader.close()
        self.test_loader.close()

    def _augmented(self, epoch: int) -> Callable[[int, np.ndarray], None]:
        def fill(index: int, row: np.ndarray) -> None:
            draws = sampler.image_draws(self.seed, epoch, index, transforms.NUM_DRAWS)
            if self._packs:
                picture = self._packs[0].picture(index)
            else:
                picture = decoding.picture(self.folder.train.read(index))
            transforms.train_view(picture, draws, row)

        return fill

    def _centred(self) -> Callable[[int, np.ndarray], None]:
        def fill(index: int, row: np.ndarray) -> None:
            if self._packs:
                row[:] = self._packs[1].picture(index).pixels()
            else:
                pixels = decoding.decode(self.folder.test.read(index))
                row[:] = transforms.test_view(pixels, *self.views)

        return fill
