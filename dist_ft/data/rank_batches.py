"""This rank's batches of a data set: the shares of each training step, and of the test images."""

from __future__ import annotations

from typing import Callable, Iterable, Iterator

import numpy as np

from dist_ft.data import decoding, sampler, transforms
from dist_ft.data.dataset import Dataset, Split
from dist_ft.data.loader import Batch, Loader
from dist_ft.data.pixel_file import PixelFile
from dist_ft.data.transforms import InputSpec

TEST_BATCH_SIZE = 50  # images that a rank scores at once, whatever the number of ranks


def load_test_image(split: Split, index: int, spec: InputSpec) -> np.ndarray:
    """(side, side, 3) uint8: an image as the network is tested on it; blank where it can be read no
    more."""
    try:
        return transforms.center_crop(decoding.decode(split.read(index)), *spec)
    except (decoding.CorruptImage, OSError):
        return np.full((spec.side, spec.side, 3), decoding.BLANK, np.uint8)


class RankBatches:
    """Batches for rank `rank` of `size`.

    cache: where the decoded images of train and test are kept, if anywhere.
    """

    def __init__(
        self,
        dataset: Dataset,
        spec: InputSpec,
        seed: int,
        rank: int,
        size: int,
        num_workers: int,
        prefetch_mb: float,
        cache: tuple[PixelFile, PixelFile] | None = None,
    ):
        self.dataset, self.spec, self.seed = dataset, spec, seed
        self.rank, self.size = rank, size
        self.train_loader, self.test_loader = (
            Loader(split, spec.side, num_workers, prefetch_mb)
            for split in (dataset.train, dataset.test)
        )
        self._cache = cache

    def train(self, epoch: int, slices: Iterable[slice]) -> Iterator[Batch]:
        """Augmented batches of an epoch's steps; a slice says which part of its order a step is."""
        self.train_loader.unreadable.clear()
        return self.train_loader.batches(self.train_shares(epoch, slices), self._augmented(epoch))

    def train_in_order(self, epoch: int) -> Iterator[Batch]:
        """The training images in order, augmented as in an epoch."""
        shares = sampler.sequential_shares(
            len(self.dataset.train), TEST_BATCH_SIZE, self.rank, self.size
        )
        self.train_loader.unreadable.clear()
        return self.train_loader.batches(shares, self._augmented(epoch))

    def test(self) -> Iterator[Batch]:
        """The test images in order, in batches of TEST_BATCH_SIZE rows."""
        self.test_loader.unreadable.clear()
        return self.test_loader.batches(self.test_shares(), self._centred())

    def train_shares(self, epoch: int, slices: Iterable[slice]) -> Iterator[sampler.Share]:
        order = sampler.epoch_order(self.seed, epoch, len(self.dataset.train))
        return (sampler.rank_share(order[part], self.rank, self.size) for part in slices)

    def test_shares(self) -> Iterator[sampler.Share]:
        return sampler.sequential_shares(
            len(self.dataset.test), TEST_BATCH_SIZE, self.rank, self.size
        )

    def close(self) -> None:
        self.train_loader.close()
        self.test_loader.close()

    def _augmented(self, epoch: int) -> Callable[[int, np.ndarray], None]:
        def fill(index: int, row: np.ndarray) -> None:
            draws = sampler.image_draws(self.seed, epoch, index, transforms.NUM_DRAWS)
            if self._cache:
                image = self._cache[0].image(index)
            else:
                image = decoding.open_image(self.dataset.train.read(index))
            transforms.random_resized_crop(image, draws, row)

        return fill

    def _centred(self) -> Callable[[int, np.ndarray], None]:
        def fill(index: int, row: np.ndarray) -> None:
            if self._cache:
                row[:] = self._cache[1].image(index).pixels()
            else:
                pixels = decoding.decode(self.dataset.test.read(index))
                row[:] = transforms.center_crop(pixels, *self.spec)

        return fill
