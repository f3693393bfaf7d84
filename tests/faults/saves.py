"""A process that does nothing but save checkpoints is killed at random moments."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import mxnet as mx

from dist_ft.training import checkpoint
from dist_ft.training.state import TrainingState

NUM_VALUES = 10**6  # in the checkpoint: 4 MB


class Summary(NamedTuple):
    kills: int
    cut: int  # kills that left an incomplete checkpoint
    bad: int  # kills after which the last completed checkpoint was not found


def run(kills: int, seed: int = 0) -> Summary:
    rng, cut, bad = random.Random(seed), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint.save(folder, TrainingState(step=0), {"w": mx.nd.zeros(NUM_VALUES)}, {}, keep=2)
        mx.nd.waitall()
        for _ in range(kills):
            before = checkpoint.latest(folder).step
            child = os.fork()
            if child == 0:
                save_forever(folder, before)
            time.sleep(rng.uniform(0.1, 0.6))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            completed = int((folder / "completed").read_text() or before)
            cut += any((folder / "checkpoints").glob(".step-*"))
            latest = checkpoint.latest(folder)
            bad += latest is None or latest.step < completed
    return Summary(kills, cut, bad)


def save_forever(folder: Path, step: int) -> None:
    (folder / "completed").write_text(str(step))
    while True:
        step += 1
        checkpoint.save(
            folder, TrainingState(step=step), {"w": mx.nd.full(NUM_VALUES, step)}, {}, keep=2
        )
        temporary = folder / "completed.new"
        temporary.write_text(str(step))
        temporary.replace(folder / "completed")


def summary(_: int) -> dict[str, int]:
    return run(kills=50)._asdict()
