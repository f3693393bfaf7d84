"""Every setting of a run: its default beside its help and its bounds; checked once, when built."""

from __future__ import annotations

import math
import os
import re
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Iterator, Sequence

from dist_ft.errors import UserError

# MXNet's optimizers whose whole state is arrays and the step count, so that a resumed run is exact.
# Not its adamax: that gives nan where a gradient is 0, as behind a dead rectifier.
OPTIMIZERS = ("sgd", "nag", "signum", "adam", "rmsprop", "adagrad", "adadelta", "ftml", "lamb")
DTYPES = ("float32", "bfloat16", "float16", "auto")
CACHES = ("off", "ram", "disk")
WITH_MOMENTUM = ("sgd", "nag", "signum")


class ConfigError(UserError):
    """Settings that cannot be used; the message lists every problem and its remedy."""


def setting(
    group: str,
    default: Any,
    help: str,
    choices: Sequence[str] | None = None,
    low: float | None = None,
    high: float = math.inf,
) -> Any:
    """A field of Config: a number has bounds (both included), a word may have choices."""
    metadata = {"group": group, "help": help, "choices": choices, "low": low, "high": high}
    return field(default=default, metadata=metadata)


image = partial(setting, "images")
network = partial(setting, "network")
recipe = partial(setting, "recipe")
ranks = partial(setting, "devices and ranks")
record = partial(setting, "record")


@dataclass(frozen=True)
class Config:
    """The settings of one training run.

    Raises ConfigError, with one line for each problem, when it is built of unusable values.
    """

    data: str = image("food5", "folder of DIR/train/CLASS/* and DIR/test/CLASS/* (or DIR/val)")
    batch_size: int = image(200, "images a step, over all ranks together", low=1)
    image_size: int = image(224, "side of the network's input, px", low=8)
    resize: int = image(0, "side of a test image before its centre crop, px; 0: 8/7 of it", low=0)
    keep_ratio: bool = image(False, "resize the shorter side of a test image, undistorted")
    num_workers: int = image(0, "decoding threads a rank; 0: one for each of its cores", low=0)
    prefetch_mb: float = image(64.0, "memory for batches decoded ahead, MB a rank", low=0)
    cache: str = image(
        "off", "keep decoded images, once for a host's ranks, in memory or on disk", CACHES
    )
    cache_side: int = image(0, "shorter side of a kept training image, px; 0: --resize", low=0)
    cache_dir: str = image("", "folder of kept images (default: ~/.cache/dist_ft/images)")
    max_bad_share: float = image(
        0.01, "share of unreadable images that stops the run, 0..1", low=0, high=1
    )
    allow_leak: bool = image(False, "train although test images are training images too")
    views: int = image(
        4, "augmentations of an image, kept where the head alone learns; 0: new each epoch", low=0
    )
    seed: int = image(0, "seed of order, augmentation and new head", low=0, high=2**32 - 1)

    model: str = network("resnet34_v2", "a classifier of gluon's or gluoncv's model zoo")
    weights: str = network("auto", "auto: found or downloaded; none: random; or .params/.onnx FILE")
    head_lr_mult: float = network(10.0, "learning-rate multiplier of the new head", low=0)
    backbone_lr_mult: float = network(1.0, "that of the pretrained features; 0: frozen", low=0)
    lr_mult: tuple[str, ...] = network((), "PATTERN=X: multiplier of the parameters that match")
    freeze: tuple[str, ...] = network((), "PATTERN: parameters that stay as they are")
    bn: str = network(
        "train", "normalise by the batch, or by the pretrained statistics", ("train", "frozen")
    )

    optimizer: str = recipe("sgd", "how gradients become updates", OPTIMIZERS)
    lr: float = recipe(0.01, "learning rate after warm-up", low=0)
    momentum: float = recipe(0.0, "momentum of sgd, nag, signum, 0..1", low=0, high=1)
    wd: float = recipe(0.001, "weight decay", low=0)
    epochs: int = recipe(20, "passes over the training images", low=1)
    max_steps: int = recipe(0, "stop after so many steps; 0: after the last epoch", low=0)
    schedule: str = recipe(
        "constant", "the rate after warm-up", ("constant", "step", "cosine", "poly")
    )
    step_epochs: tuple[float, ...] = recipe(
        (), "epoch at which the step schedule lowers the rate", low=0
    )
    step_factor: float = recipe(0.1, "factor of each lowering, 0..1", low=0, high=1)
    poly_power: float = recipe(2.0, "exponent of the poly schedule", low=0)
    warmup_epochs: float | None = recipe(
        None, "epochs of linear warm-up (default: 5 with --scale-batch, else 0)", low=0
    )
    label_smoothing: float = recipe(0.0, "probability spread over all classes", low=0, high=1)
    clip_norm: float = recipe(0.0, "largest global norm of a gradient; 0: no limit", low=0)
    patience: int = recipe(0, "stop after so many epochs without a better test; 0: never", low=0)
    scale_batch: bool = recipe(False, "multiply the batch size by the number of ranks")
    lr_scaling: str = recipe(
        "linear", "the rate's growth with --scale-batch", ("linear", "sqrt", "none")
    )

    device: str = ranks("auto", "auto: a GPU where MXNet sees one", ("auto", "cpu", "gpu"))
    dtype: str = ranks(
        "float32",
        "of the sums; bfloat16: on CPUs that have it, float16: on GPUs, auto: the quickest",
        DTYPES,
    )
    compression: str = ranks("none", "type of gradients on the wire", ("none", "fp16"))
    num_groups: int = ranks(0, "groups to reduce gradients in; 0: fused as they come", low=0)
    fusion_mb: int = ranks(0, "Horovod's fusion buffer, MB; 0: Horovod's default", low=0)
    cycle_ms: float = ranks(
        0.0, "Horovod's cycle, ms; 0: 10 on a CPU, Horovod's default on a GPU", low=0
    )
    hierarchical_allreduce: bool = ranks(
        False, "sum within each host, then between hosts; by NCCL and MPI only"
    )
    autotune: bool = ranks(
        False, "let Horovod find its fusion buffer and cycle, in 180 steps; kept for later runs"
    )
    horovod_timeline: str = ranks("", "FILE of when each sum was made; takes a core of rank 0's")
    stall_timeout: float = ranks(300.0, "wait without progress that ends the job, s", low=1)
    elastic: bool = ranks(False, "outlive the loss of ranks, take in new ones: launch/elastic.sh")
    commit_every: int = ranks(10, "steps between states that an elastic run keeps in memory", low=1)
    check_every: int = ranks(0, "steps between comparisons of the ranks; 0: an epoch", low=0)

    out: str = record("", "folder of the run (default: runs/NAME-OF-DATA)")
    resume: str = record("auto", "auto: go on with the run in --out; never: anew; or a run's DIR")
    keep: int = record(2, "latest checkpoints kept, besides the best", low=1)
    save_every: int = record(0, "steps between checkpoints; 0: an epoch", low=0)
    log_every: int = record(10, "steps between points of the training curves", low=1)
    board_every: int = record(
        0, "epochs between TensorBoard's pictures; 0: they take a hundredth of the time", low=0
    )
    histograms: bool = record(False, "weights and gradients, too, each epoch or --board-every'th")

    def __post_init__(self):
        problems = [*_type_problems(self)]
        problems = problems or [*_value_problems(self), *_joint_problems(self)]
        if problems:
            raise ConfigError("\n".join(problems))

    @property
    def resize_px(self) -> int:
        """Side that a test image is resized to, px: ImageNet's 256 for a crop of 224."""
        return self.resize or round(self.image_size * 256 / 224)

    @property
    def cache_side_px(self) -> int:
        return self.cache_side or self.resize_px

    @property
    def cache_folder(self) -> Path:
        """Where decoded images are kept from run to run."""
        if self.cache_dir:
            return Path(self.cache_dir)
        return _cache_home() / "images"

    @property
    def tuning_folder(self) -> Path:
        """Where what autotuning finds is kept from run to run."""
        return _cache_home() / "tuning"

    @property
    def folder(self) -> Path:
        """Where the run's files go."""
        return Path(self.out) if self.out else Path("runs", Path(os.path.abspath(self.data)).name)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# Settings that may differ in a resumed run, since none alters what a given step computes.
FREE_ON_RESUME = frozenset(
    (
        *("data", "num_workers", "prefetch_mb", "cache_dir", "max_bad_share", "weights"),
        *("allow_leak", "epochs", "max_steps", "patience"),
        *("device", "num_groups", "fusion_mb", "cycle_ms", "stall_timeout", "check_every"),
        *("hierarchical_allreduce", "autotune", "horovod_timeline", "elastic", "commit_every"),
        *("out", "resume", "keep", "save_every", "log_every", "board_every", "histograms"),
    )
)


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "dist_ft")


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def _type_problems(config: Config) -> Iterator[str]:
    for f in fields(config):
        value = getattr(config, f.name)
        if not _fits(value, f.type):
            yield f"{flag_of(f.name)} {value!r}: must be of type {f.type}"


def _fits(value: Any, kind: str) -> bool:
    """Whether a value is of a field's type, as that is written above."""
    if kind.endswith(" | None"):
        return value is None or _fits(value, kind[: -len(" | None")])
    if kind.startswith("tuple"):
        item = kind[len("tuple[") : kind.index(",")]
        return isinstance(value, tuple) and all(_fits(v, item) for v in value)
    if kind == "float":
        return type(value) in (int, float)
    return type(value).__name__ == kind


def _value_problems(config: Config) -> Iterator[str]:
    for f in fields(config):
        value, meta = getattr(config, f.name), f.metadata
        if meta["choices"] and value not in meta["choices"]:
            yield f"{flag_of(f.name)} {value}: choose one of {', '.join(meta['choices'])}"
        if meta["low"] is None or value is None:
            continue
        upper = "finite" if meta["high"] == math.inf else f"at most {meta['high']}"
        for number in value if isinstance(value, tuple) else (value,):
            if not (meta["low"] <= number <= meta["high"] and number < math.inf):
                yield f"{flag_of(f.name)} {number}: must be at least {meta['low']} and {upper}"


def _joint_problems(c: Config) -> Iterator[str]:
    if c.cache_side and (c.cache == "off" or c.cache_side < c.image_size):
        yield f"--cache-side {c.cache_side}: takes --cache ram or disk, and at least --image-size"
    if c.resize and c.resize < c.image_size:
        yield f"--resize {c.resize}: must be at least --image-size {c.image_size}"
    out, data = (Path(os.path.abspath(path)) for path in (c.folder, c.data))
    inside = out.relative_to(data).parts[:1] if data in out.parents else ()
    if inside and inside[0] in ("train", "test", "val"):
        yield f"--out {c.folder}: is among the images of --data: choose another"
    if c.elastic and c.scale_batch:
        yield "--elastic: a batch cannot grow with ranks that come and go; drop --scale-batch"
    if c.elastic and (c.autotune or c.horovod_timeline):
        yield "--elastic: --autotune and --horovod-timeline are for ranks that stay; leave them out"
    if c.elastic and c.num_groups > 1:
        yield f"--elastic --num-groups {c.num_groups}: all gradients are one group; leave it out"
    if c.autotune and c.fusion_mb and c.cycle_ms:
        yield "--autotune finds --fusion-mb and --cycle-ms: leave one of them to it"
    if c.elastic and c.dtype == "auto":
        yield "--elastic --dtype auto: a rank that is added has no choice any more; name a type"
    if c.momentum and c.optimizer not in WITH_MOMENTUM:
        yield f"--momentum {c.momentum}: {c.optimizer} has none; leave it out"
    if (c.warmup_epochs or 0) > c.epochs:
        yield f"--warmup-epochs {c.warmup_epochs}: must be at most --epochs {c.epochs}"
    if bool(c.step_epochs) != (c.schedule == "step"):
        yield "--step-epochs and --schedule step need each other"
    for pattern in c.freeze:
        yield from _pattern_problems(flag_of("freeze"), pattern)
    for pair in c.lr_mult:
        pattern, _, number = pair.rpartition("=")
        if not pattern or not re.fullmatch(r"\d+(\.\d*)?([eE][+-]?\d+)?|\.\d+", number):
            yield f"--lr-mult {pair}: must read PATTERN=X with a number X of at least 0"
        yield from _pattern_problems(flag_of("lr_mult"), pattern)


def _pattern_problems(flag: str, pattern: str) -> Iterator[str]:
    try:
        re.compile(pattern)
    except re.error as error:
        yield f"{flag} {pattern}: not a regular expression: {error}"
