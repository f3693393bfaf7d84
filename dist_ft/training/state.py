"""The state of a run between two steps: what a checkpoint holds besides arrays."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from dist_ft.data.transforms import InputSpec
from dist_ft.errors import UserError
from dist_ft.text import canonical

FORMAT_VERSION = 3  # increase it with every change of the format, and extend `_upgrade`

NAMES_SINCE_VERSION_1 = {
    "epochs_without_better": "epochs_without_improvement",
    "facts": "run_spec",
    "ranks": "num_ranks",
    "view": "input_spec",
}
NAMES_SINCE_VERSION_2 = {"test_accuracy": "selection_accuracy"}
INPUT_SPEC_KEYS = ("image_size", "resize", "keep_ratio")  # in the order of InputSpec's fields
DEFAULT_INPUT_SPEC = InputSpec(224, 256, False)


class UnknownFormat(UserError):
    """A checkpoint that a newer version of dist_ft has written."""


@dataclass
class EpochSums:
    """Sums over the training images of the epoch so far, on all ranks.

    Class weights have a mean of 1 over an epoch's images, so their number is also the sum of their
    weights, as far as no image is unreadable.
    """

    loss_sum: float = 0.0
    correct: int = 0
    num_images: int = 0

    @property
    def loss(self) -> float:
        return self.loss_sum / max(1, self.num_images)

    @property
    def accuracy(self) -> float:
        return self.correct / max(1, self.num_images)


@dataclass
class TrainingState:
    """Values that together with the network's and the optimizer's arrays determine the next step,
    and those that are needed to use the network without the run's settings."""

    step: int = 0  # steps made
    epoch_sums: EpochSums = field(default_factory=EpochSums)
    # Of these parameters, on the images that select the best epoch; None if not evaluated.
    selection_accuracy: float | None = None
    best_accuracy: float = -1.0  # of all epochs so far
    epochs_without_improvement: int = 0
    elapsed_s: float = 0.0  # time spent in the epoch so far
    loss_scale: list[float] | None = None  # value and good steps of loss_scale.DynamicLossScale
    # What the parameters belong to.
    run_spec: dict[str, Any] = field(default_factory=dict)
    num_ranks: int = 1
    dtype: str = "float32"
    classes: list[str] = field(default_factory=list)
    input_spec: InputSpec = DEFAULT_INPUT_SPEC

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        spec = dict(zip(INPUT_SPEC_KEYS, self.input_spec))
        return {"format_version": FORMAT_VERSION, **asdict(self), "input_spec": spec}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingState:
        """Reads what any version of `to_dict` has returned.

        Raises UnknownFormat for a newer version, and KeyError or TypeError for other values.
        """
        values = _upgrade(values)
        values["epoch_sums"] = EpochSums(**values["epoch_sums"])
        spec = values["input_spec"]
        values["input_spec"] = InputSpec(*(spec[key] for key in INPUT_SPEC_KEYS))
        # An earlier version kept other Unicode forms.
        values["classes"] = list(map(canonical, values["classes"]))
        if "classes" in values["run_spec"]:
            classes = list(map(canonical, values["run_spec"]["classes"]))
            values["run_spec"] = {**values["run_spec"], "classes": classes}
        return cls(**values)


def _upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """Converts the values of an older version to those of FORMAT_VERSION."""
    values = dict(values)
    version = values.pop("format_version", 1)
    if version not in (1, 2, FORMAT_VERSION):
        raise UnknownFormat(
            f"checkpoint format version {version}: this dist_ft reads versions 1 to"
            f" {FORMAT_VERSION}; use the version of dist_ft that wrote the checkpoint, or a newer"
            " one"
        )
    if version == 1:  # had no format_version and other names; its first writers lacked "dtype"
        values = {NAMES_SINCE_VERSION_1.get(name, name): value for name, value in values.items()}
        spec = values["run_spec"] = dict(values["run_spec"])
        if "images a step" in spec:
            spec["images per step"] = spec.pop("images a step")
        values["dtype"] = values.get("dtype") or spec.get("--dtype", "float32")
    return {NAMES_SINCE_VERSION_2.get(name, name): value for name, value in values.items()}
