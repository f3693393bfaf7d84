"""What tests of training runs share."""

from __future__ import annotations

import json
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

from dist_ft.config import Config
from dist_ft.training import checkpoint
from dist_ft.training.run import Run


def tiny_config(data: Path, **settings) -> Config:
    """A small network on the tiny data set, in steps of 24, 24 and 5 images."""
    return Config(
        **{
            "data": str(data),
            "model": "mobilenet0.25",
            "weights": "none",
            "image_size": 32,
            "batch_size": 24,
            "lr": 0.01,
            "momentum": 0.9,
            "num_workers": 2,
            **settings,
        }
    )


def arrays_of(run: Path) -> dict[str, bytes]:
    """The bytes of the last checkpoint's parameters and optimizer state."""
    found = checkpoint.latest(run)
    arrays = {**found.net_arrays(), **found.trainer_arrays()}
    return {name: array.asnumpy().tobytes() for name, array in arrays.items()}


def rows_of(run: Path) -> list[dict]:
    """The rows of scores.jsonl without measured times."""
    rows = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
    measured = ("elapsed_s", "images_per_s", "data_wait_share")
    return [{k: v for k, v in row.items() if k not in measured} for row in rows]


@contextmanager
def stop_before(step: int, signum: signal.Signals = signal.SIGTERM):
    """Sends this process a signal before a step of a run in the body."""
    begin_step = Run.begin_step

    def send_signal(run, current, batch, stop):
        if current == step:
            signal.raise_signal(signum)
        return begin_step(run, current, batch, stop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "begin_step", send_signal)
        yield
