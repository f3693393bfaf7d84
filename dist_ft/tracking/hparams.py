"""A run's row in the HPARAMS table of TensorBoard.

SummaryWriter.add_hparams is not used: it makes a second run for the row, and its list of columns
would be applied to all runs of the log folder.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from dist_ft.config import Config, OutputSettings
from dist_ft.text import printable

# Shown for every run, so that these columns have no gaps; other settings only if not the default.
ALWAYS_SHOWN = (
    *("model", "image_size", "batch_size", "epochs", "seed"),
    *("optimizer", "lr", "momentum", "wd", "schedule", "head_lr_mult", "backbone_lr_mult", "bn"),
)
OUTPUT = {f.name for f in fields(OutputSettings)}


def add_session_start(writer: SummaryWriter, settings: dict[str, Any]) -> None:
    """Starts the row; its result columns are the latest scalars of the writer's run."""
    _, start, _ = hparams(_columns(settings), {})
    writer.file_writer.add_summary(start)


def add_session_end(writer: SummaryWriter) -> None:
    """Marks the run as finished successfully."""
    _, _, success = hparams({}, {})
    writer.file_writer.add_summary(success)


def _columns(settings: dict[str, Any]) -> dict[str, Any]:
    columns = {}
    for f in fields(Config):
        value = settings.get(f.name, f.default)
        is_changed = value != f.default and f.name not in OUTPUT
        if f.name in ALWAYS_SHOWN or is_changed:
            columns[f.name] = _cell(value)
    return columns


def _cell(value: Any) -> Any:
    """A number, a boolean or text: all that TensorBoard accepts."""
    if isinstance(value, (bool, int, float)):
        return value
    text = " ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
    return printable(text)
