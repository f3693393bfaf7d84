"""A run's row in TensorBoard's table of runs: `tensorboard --logdir runs`, HPARAMS."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from tensorboardX.summary import hparams

from dist_ft.config import Config, OutputSettings
from dist_ft.text import printable

# Told of every run, so that a column has no holes; other settings where they are not the default.
MAIN = (
    *("model", "image_size", "batch_size", "epochs", "seed"),
    *("optimizer", "lr", "momentum", "wd", "schedule", "head_lr_mult", "backbone_lr_mult", "bn"),
)

OUTPUT = {f.name for f in fields(OutputSettings)}


def begin(writer: Any, config: dict[str, Any]) -> None:
    """Makes the writer's own run the row, so that its columns of results are its latest scalars.

    What tensorboardX's add_hparams makes beside it, a list of columns, is left out: TensorBoard
    would take that of one run for all.
    """
    _, start, _ = hparams(_told(config), {})
    writer.file_writer.add_summary(start)


def end(writer: Any) -> None:
    """Tells that the run is over, and went well."""
    *_, success = hparams({}, {})
    writer.file_writer.add_summary(success)


def _told(config: dict[str, Any]) -> dict[str, Any]:
    """Settings as TensorBoard takes them: numbers, booleans and words."""
    found = {}
    for f in fields(Config):
        value = config.get(f.name, f.default)
        differs = value != f.default and f.name not in OUTPUT
        if f.name in MAIN or differs:
            is_plain = isinstance(value, (bool, int, float))
            found[f.name] = value if is_plain else printable(_word(value))
    return found


def _word(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
