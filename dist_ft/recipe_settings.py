"""The settings that determine what a step computes: data, augmentation, model and recipe.

Each has a default, a help text, bounds, and says whether a resumed run may change it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dist_ft.settings import setting

# MXNet's optimizers whose whole state is arrays and the step count, so that resuming is exact.
# Not adamax: MXNet's yields NaN where a gradient is exactly 0, as behind a dead rectifier.
OPTIMIZERS = ("sgd", "nag", "signum", "adam", "rmsprop", "adagrad", "adadelta", "ftml", "lamb")


@dataclass(frozen=True)
class DataSettings:
    """data"""

    data: str = setting(
        "food5",
        "folder with train/CLASS/*, test/CLASS/* and optionally val/CLASS/*",
        may_change=True,
    )
    val_share: float = setting(
        0.0,
        "share of the training images that become validation images, which select the best epoch,"
        " 0..0.9",
        low=0,
        high=0.9,
    )
    train_list: str = setting(
        "",
        "FILE of paths below --data and labels, instead of its folders: CSV, or text lines"
        " 'path label'",
        may_change=True,
    )
    val_list: str = setting("", "FILE, the same for the validation images", may_change=True)
    test_list: str = setting("", "FILE, the same for the test images", may_change=True)
    batch_size: int = setting(200, "images per step, over all ranks together", low=1)
    image_size: int = setting(224, "side of the network's input, px", low=8)
    resize: int = setting(
        0, "side of a test image before its center crop, px; 0: 8/7 of --image-size", low=0
    )
    keep_ratio: bool = setting(False, "resize the shorter side of a test image, without distortion")
    num_workers: int = setting(
        0, "decoding threads per rank; 0: one for each of its cores", low=0, may_change=True
    )
    prefetch_mb: float = setting(
        64.0, "memory for prefetched batches, MB per rank", low=0, may_change=True
    )
    cache: str = setting(
        "off",
        "keep decoded images, shared by all ranks of a host, in memory or on disk",
        choices=("off", "ram", "disk"),
    )
    cache_side: int = setting(
        0, "shorter side of a cached training image, px; 0: that of --resize", low=0
    )
    cache_dir: str = setting(
        "", "folder of the disk caches (default: ~/.cache/dist_ft/images)", may_change=True
    )
    max_bad_share: float = setting(
        0.01,
        "share of unreadable images above which the run stops, 0..1",
        low=0,
        high=1,
        may_change=True,
    )
    allow_leak: bool = setting(False, "train even if an image is in two splits", may_change=True)
    views: int = setting(
        4,
        "cached augmentations per image when only the head is trained; 0: new ones every epoch",
        low=0,
    )
    seed: int = setting(
        0, "seed of the order, the augmentation and the new head", low=0, high=2**32 - 1
    )

    @property
    def resize_px(self) -> int:
        """Side that a test image is resized to, px: as 256 to a crop of 224 for ImageNet."""
        return self.resize or round(self.image_size * 256 / 224)

    @property
    def cache_side_px(self) -> int:
        """Shorter side of a cached training image, px."""
        return self.cache_side or self.resize_px

    @property
    def cache_folder(self) -> Path:
        """Folder of the disk caches, shared by all runs."""
        if self.cache_dir:
            return Path(self.cache_dir)
        cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(cache_home, "dist_ft", "images")


@dataclass(frozen=True)
class AugmentationSettings:
    """augmentation"""

    crop_scale: float = setting(
        0.08, "smallest share of an image that a training crop shows, 0..1", low=0, high=1
    )
    crop_ratio: float = setting(
        4 / 3,
        "aspect ratio of a training crop: from 1/C to C",
        low=1,
        high=100,
    )
    flip: str = setting(
        "horizontal",
        "directions in which training images are flipped at random",
        choices=("none", "horizontal", "vertical", "both"),
    )
    jitter: float = setting(
        0.0,
        "vary brightness, contrast and saturation by random factors from 1-J to 1+J",
        low=0,
        high=1,
    )
    trivial_augment: bool = setting(
        False, "apply one random operation of random magnitude (TrivialAugment)"
    )
    random_erasing: float = setting(
        0.0, "probability that a random box of a training image is erased, 0..1", low=0, high=1
    )
    mixup: float = setting(
        0.0, "mix pairs of images, each with a share from Beta(X, X); 0: do not", low=0
    )
    cutmix: float = setting(
        0.0,
        "exchange a box between pairs of images, whose share of the area is from Beta(X, X); 0: do"
        " not; together with --mixup, each pair gets one of them",
        low=0,
    )


@dataclass(frozen=True)
class ModelSettings:
    """model"""

    model: str = setting("resnet34_v2", "a classifier of gluon's or gluoncv's model zoo")
    weights: str = setting(
        "auto",
        "auto: found locally or downloaded; none: random; or a .params or .onnx FILE",
        may_change=True,
    )
    head_lr_mult: float = setting(10.0, "learning-rate multiplier of the new head", low=0)
    backbone_lr_mult: float = setting(
        1.0, "learning-rate multiplier of the pretrained layers; 0: frozen", low=0
    )
    layer_decay: float = setting(
        1.0,
        "factor of the learning rate from each block to the one before it, 0..1; 1: none",
        low=0,
        high=1,
    )
    lr_mult: tuple[str, ...] = setting(
        (), "PATTERN=X: learning-rate multiplier of the matching parameters"
    )
    freeze: tuple[str, ...] = setting((), "PATTERN: keep the matching parameters fixed")
    bn: str = setting(
        "train",
        "BatchNorm uses the batch's statistics (train) or the pretrained ones (frozen)",
        choices=("train", "frozen"),
    )


@dataclass(frozen=True)
class RecipeSettings:
    """recipe"""

    optimizer: str = setting("sgd", "optimizer", choices=OPTIMIZERS)
    lr: float = setting(0.01, "learning rate after warm-up", low=0)
    momentum: float = setting(0.0, "momentum of sgd, nag and signum, 0..1", low=0, high=1)
    wd: float = setting(0.001, "weight decay", low=0)
    epochs: int = setting(20, "passes over the training images", low=1, may_change=True)
    max_steps: int = setting(
        0, "stop after so many steps; 0: after the last epoch", low=0, may_change=True
    )
    schedule: str = setting(
        "constant",
        "learning-rate schedule after warm-up",
        choices=("constant", "step", "cosine", "poly"),
    )
    step_epochs: tuple[float, ...] = setting(
        (), "epoch at which the step schedule lowers the learning rate", low=0
    )
    step_factor: float = setting(0.1, "factor of the step schedule, 0..1", low=0, high=1)
    poly_power: float = setting(2.0, "exponent of the poly schedule", low=0)
    warmup_epochs: float | None = setting(
        None, "epochs of linear warm-up (default: 5 with --scale-batch, else 0)", low=0
    )
    label_smoothing: float = setting(
        0.0, "probability spread evenly over all classes, 0..1", low=0, high=1
    )
    class_weights: str = setting(
        "",
        "weights of the classes in the loss: balanced (small classes count as much as large ones),"
        " or a FILE in JSON, YAML or CSV that maps each class to its weight (default: equal)",
    )
    balance: bool = setting(
        False, "draw images of every class equally often, those of small classes repeatedly"
    )
    clip_norm: float = setting(0.0, "maximum global norm of the gradient; 0: no limit", low=0)
    # May change like the number of ranks, which as well determines the images that BatchNorm
    # normalizes together, and nothing else but the order of sums.
    micro_batch: int = setting(
        0,
        "images per rank that are computed at once, to save memory; gradients add up to those of"
        " the whole step; 0: all",
        low=0,
        may_change=True,
    )
    ema: float = setting(
        0.0,
        "decay of the parameters' moving average, which is evaluated and saved; 0: none",
        low=0,
        high=1,
    )
    patience: int = setting(
        0,
        "stop after so many epochs without a better accuracy on val or, without it, test; 0: never",
        low=0,
        may_change=True,
    )
    scale_batch: bool = setting(False, "multiply the batch size by the number of ranks")
    lr_scaling: str = setting(
        "linear",
        "how the learning rate grows with --scale-batch",
        choices=("linear", "sqrt", "none"),
    )
