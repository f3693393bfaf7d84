"""One rank's batches of a data set: its shares of the training steps, and of the other splits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Iterable, Iterator, Mapping

import numpy as np

from dist_ft.data import decoding, mixing, sampler, transforms
from dist_ft.data.augmentation import DEFAULT, Augmentation, augment
from dist_ft.data.dataset import Dataset, Split
from dist_ft.data.image import BLANK, CorruptImage
from dist_ft.data.loader import Batch, Fill, Loader, Mix
from dist_ft.data.pixel_file import PixelFile
from dist_ft.data.targets import TargetRule
from dist_ft.data.transforms import InputSpec

# Images that a rank evaluates at once: a constant, so that scores do not depend on any setting.
TEST_BATCH_SIZE = 50


def load_test_image(split: Split, index: int, spec: InputSpec) -> np.ndarray:
    """(side, side, 3) uint8: an image as the network is tested on it; blank if it is unreadable."""
    try:
        return transforms.center_crop(decoding.decode(split.read(index)), *spec)
    except (CorruptImage, OSError):
        return np.full((spec.side, spec.side, 3), BLANK, np.uint8)


@dataclass
class RankBatches:
    """Batches for rank `rank` of `size`."""

    dataset: Dataset
    spec: InputSpec
    seed: int
    rank: int
    size: int
    num_workers: int
    prefetch_mb: float
    cache: Mapping[str, PixelFile] | None = None  # decoded images of each split
    augmentation: Augmentation = DEFAULT  # of the training images
    balance: bool = False  # every class equally often in an epoch
    mixup: float = 0.0  # see mixing.py
    cutmix: float = 0.0
    target_rule: TargetRule = field(default_factory=TargetRule)

    def __post_init__(self) -> None:
        self.loaders = {
            name: Loader(split, self.spec.side, self.num_workers, self.prefetch_mb)
            for name, split in self.dataset.splits.items()
        }
        self.train_loader = self.loaders["train"]

    def train(self, epoch: int, slices: Iterable[slice]) -> Iterator[Batch]:
        """Augmented batches of an epoch's steps; each slice of the epoch's order is a step."""
        self.train_loader.unreadable.clear()
        shares, fill = self.train_shares(epoch, slices), self._augmented(epoch)
        return self.with_targets(self.train_loader.batches(shares, fill, self.mix(epoch)))

    def with_targets(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Adds the targets to batches of training images."""
        num_classes = len(self.dataset.classes)
        for batch in batches:
            batch.targets = self.target_rule.apply(
                batch.labels, batch.mask, num_classes, batch.partner_share
            )
            yield batch

    def train_in_order(self, epoch: int) -> Iterator[Batch]:
        """The training images in order, augmented as in an epoch, in batches as those of test."""
        shares = self.shares_in_order("train")
        self.train_loader.unreadable.clear()
        return self.train_loader.batches(shares, self._augmented(epoch))

    def in_order(self, split: str) -> Iterator[Batch]:
        """The images of 'val' or 'test' in order, in batches of TEST_BATCH_SIZE rows."""
        loader = self.loaders[split]
        loader.unreadable.clear()
        return loader.batches(self.shares_in_order(split), self._center_cropped(split))

    def test(self) -> Iterator[Batch]:
        """The test images in order."""
        return self.in_order("test")

    def train_shares(self, epoch: int, slices: Iterable[slice]) -> Iterator[sampler.Share]:
        """The (samples, mask) of each batch of `train`."""
        if self.balance:
            order = sampler.balanced_order(self.seed, epoch, self.dataset.train.labels)
        else:
            order = sampler.epoch_order(self.seed, epoch, len(self.dataset.train))
        group = 2 if self.mixup or self.cutmix else 1  # images that are mixed need one rank
        return (sampler.rank_share(order[part], self.rank, self.size, group) for part in slices)

    def shares_in_order(self, split: str) -> Iterator[sampler.Share]:
        """The (indices, mask) of each batch of a split's images in order."""
        num_images = len(self.dataset.splits[split])
        return sampler.sequential_shares(num_images, TEST_BATCH_SIZE, self.rank, self.size)

    def train_image(self, index: int) -> decoding.SourceImage:
        """A training image before its augmentation. Raises CorruptImage and OSError."""
        if self.cache:
            return self.cache["train"].image(index)
        return decoding.open_image(self.dataset.train.read(index))

    def mix(self, epoch: int) -> Mix | None:
        """What mixes the pairs of an epoch, if they are to be mixed."""
        if not (self.mixup or self.cutmix):
            return None

        def mix(sample: int, first: np.ndarray, second: np.ndarray) -> float:
            repetition, index = divmod(sample, len(self.dataset.train))
            draws = sampler.pair_draws(self.seed, epoch, index, mixing.NUM_DRAWS, repetition)
            return mixing.mix_pair(first, second, self.mixup, self.cutmix, draws)

        return mix

    def close(self) -> None:
        """Ends the loaders' threads."""
        for loader in self.loaders.values():
            loader.close()

    def _augmented(self, epoch: int) -> Fill:
        def fill(sample: int, row: np.ndarray) -> None:
            repetition, index = divmod(sample, len(self.dataset.train))
            num_draws = self.augmentation.num_draws
            draws = sampler.image_draws(self.seed, epoch, index, num_draws, repetition)
            augment(self.train_image(index), draws, row, self.augmentation)

        return fill

    def _center_cropped(self, split: str) -> Fill:
        images, cache = self.dataset.splits[split], self.cache

        def fill(index: int, row: np.ndarray) -> None:
            if cache:  # which holds the crops
                row[:] = cache[split].image(index).pixels()
            else:
                pixels = decoding.decode(images.read(index))
                row[:] = transforms.center_crop(pixels, *self.spec)

        return fill
