"""A process that does nothing but save checkpoints, killed at random moments."""

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

NUMBERS = 10**6  # in the checkpoint: 4 MB


class Summary(NamedTuple):
    kills: int
    cut: int  # of them, with a checkpoint only half written
    bad: int  # after which the last one that was finished was not found whole


def run(kills: int, seed: int = 0) -> Summary:
    chance, cut, bad = random.Random(seed), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint.save(folder, TrainingState(step=0), {"w": mx.nd.zeros(NUMBERS)}, {}, keep=2)
        mx.nd.waitall()
        for _ in range(kills):
            before = checkpoint.latest(folder).step
            child = os.fork()
            if child == 0:
                save_for_ever(folder, before)
            time.sleep(chance.uniform(0.1, 0.6))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            finished = int((folder / "finished").read_text() or before)
            cut += any((folder / "checkpoints").glob(".step-*.writing"))
            found = checkpoint.latest(folder)
            bad += found is None or found.step < finished
    return Summary(kills, cut, bad)


def save_for_ever(folder: Path, step: int) -> None:
    (folder / "finished").write_text(str(step))
    while True:
        step += 1
        checkpoint.save(
            folder, TrainingState(step=step), {"w": mx.nd.full(NUMBERS, step)}, {}, keep=2
        )
        beside = folder / "finished.beside"
        beside.write_text(str(step))
        beside.replace(folder / "finished")


def summary(_: int) -> dict[str, int]:
    return run(kills=50)._asdict()
