"""A run read back from its folder: its settings, a row an epoch, its best checkpoint, its speed."""

from __future__ import annotations

import json
import shlex
import struct
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Iterator, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from tensorboardX.proto.event_pb2 import Event, SessionLog

from dist_ft.config import Config
from dist_ft.errors import UserError
from dist_ft.settings import flag_of
from dist_ft.training import checkpoint
from dist_ft.training.checkpoint import Checkpoint

SPEED, WAIT = "speed/images_per_s", "speed/data_wait_share"
SETTINGS_READ = {"data", "model"}
SCORES_READ = {
    *("epoch", "step", "elapsed_s", "train_loss", "train_accuracy", "test_loss"),
    *("test_accuracy", "test_correct", "test_images", "confusion"),
}
DEFAULTS = {f.name: f.default for f in fields(Config)}


class Pace(NamedTuple):
    """What rank 0 has measured between two points of the training curves."""

    step: int
    images_per_s: float  # of all ranks
    wait_share: float  # of the time, that the rank waited for images


class Spent(NamedTuple):
    """Where a rank's training steps went, in seconds of all epochs that tell it."""

    name: str
    step_s: float  # of a step by itself; the median epoch's
    data_s: float
    rest_s: float
    others_s: float  # waiting for other ranks, and their sums


@dataclass(frozen=True)
class History:
    folder: Path
    settings: dict[str, Any]
    rows: list[dict[str, Any]]  # of scores.jsonl; at least one
    best: Checkpoint | None
    paces: list[Pace]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def top(self) -> dict[str, Any]:
        """The row of the best epoch, the earlier of equals."""
        return max(self.rows, key=lambda row: row["test_accuracy"])

    @property
    def confusion(self) -> np.ndarray:
        """(C, C) of the best epoch: images of class [row] that were taken for [column]."""
        return np.array(self.top["confusion"], np.int64)

    @property
    def facts(self) -> dict[str, Any]:
        return self.best.state.get("facts", {}) if self.best else {}

    @property
    def classes(self) -> list[str]:
        """Their names; numbers where no checkpoint tells."""
        unnamed = [f"class {label}" for label in range(len(self.top["confusion"]))]
        return list(self.best.state.get("classes", unnamed)) if self.best else unnamed

    @property
    def num_train(self) -> int | None:
        """Images to train on, where a checkpoint tells."""
        told = str(self.facts.get("train images", "")).split(" ")[0]
        return int(told) if told.isdecimal() else None

    def images_per_s(self) -> list[float] | None:
        """Training images of each epoch over all of its time, the test's and checkpoint's included;
        None where no checkpoint tells how many there were."""
        batch_size = self.facts.get("images a step")
        if not self.num_train or not batch_size:
            return None
        ends = [0, *(row["step"] for row in self.rows)]
        images = (min((b - a) * batch_size, self.num_train) for a, b in zip(ends, ends[1:]))
        return [num / max(row["elapsed_s"], 1e-9) for num, row in zip(images, self.rows)]

    @property
    def wait_share(self) -> float | None:
        """Share of the training steps' time that rank 0 waited for images, if it is known."""
        ends = [0, *(pace.step for pace in self.paces)]
        times = [max(0, b - a) / p.images_per_s for a, b, p in zip(ends, ends[1:], self.paces)]
        total = sum(times)
        waited = sum(time * pace.wait_share for time, pace in zip(times, self.paces))
        return waited / total if total else None

    def spent(self) -> list[Spent]:
        """Of each rank, in the order of ranks; none where one process ran."""
        told: dict[tuple[int, str], list[dict[str, Any]]] = {}
        for row in self.rows:
            for rank in row.get("ranks", ()):
                told.setdefault((rank["rank"], rank["host"]), []).append(rank)
        names = "data_s", "rest_s", "others_s"
        return [
            Spent(
                f"rank {rank} on {host}",
                float(np.median([epoch["step_s"] for epoch in epochs])),
                *(sum(epoch[name] for epoch in epochs) for name in names),
            )
            for (rank, host), epochs in sorted(told.items())
        ]

    def changed(self) -> dict[str, Any]:
        """The settings that are not the defaults; data always, which has none worth the name."""
        given = {name: _hashable(value) for name, value in self.settings.items()}
        return {k: v for k, v in given.items() if k == "data" or v != DEFAULTS.get(k, v)}

    def command(self) -> str:
        """A line for a shell that makes the run anew, in a folder of its own."""
        ranks = self.best.state.get("ranks", 1) if self.best else 1
        words = ["horovodrun", "-np", str(ranks)] if ranks > 1 else []
        words += ["python", "-m", "dist_ft.train"]
        for name, value in self.changed().items():
            if name == "out" or (name, value) == ("resume", "never"):
                continue
            for item in value if isinstance(value, tuple) else (value,):
                words += [flag_of(name), _word(item)]
        return shlex.join([*words, "--out", f"{self.folder}-again"])


def read(folder: Path) -> History:
    """The run in a folder. Raises UserError where no epoch of one is."""
    try:
        lines = (folder / "scores.jsonl").read_text(encoding="utf-8").splitlines()
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: no run of dist_ft.train ({error}); name the folder that was its --out"
        ) from error
    rows = []
    for line in lines:
        with suppress(ValueError):  # the last one is cut while it is written
            rows.append(json.loads(line))
    if not rows:
        raise UserError(f"{folder}: no epoch is over yet, so there are no scores to show")
    for name, is_told, needed in (
        (
            "config.json",
            isinstance(settings, dict) and set(settings) >= SETTINGS_READ,
            SETTINGS_READ,
        ),
        ("scores.jsonl", all(map(_is_row, rows)), SCORES_READ),
    ):
        if not is_told:
            raise UserError(
                f"{folder / name}: not of dist_ft.train, which writes {', '.join(sorted(needed))};"
                " name the folder that was its --out"
            )
    return History(folder, settings, rows, checkpoint.best(folder), list(_paces(folder)))


def _is_row(row: Any) -> bool:
    """Whether a line of scores.jsonl has all that is read of it: numbers, and a square matrix."""
    if not (isinstance(row, dict) and set(row) >= SCORES_READ):
        return False
    numbers, matrix = SCORES_READ - {"confusion"}, row["confusion"]
    return all(isinstance(row[name], (int, float)) for name in numbers) and (
        isinstance(matrix, list)
        and all(isinstance(counts, list) and len(counts) == len(matrix) for counts in matrix)
        and all(isinstance(count, int) for counts in matrix for count in counts)
    )


def _paces(folder: Path) -> Iterator[Pace]:
    """From TensorBoard's files, the first first: a later one tells anew from where it begins."""
    points: dict[int, dict[str, float]] = {}
    for path in sorted((folder / "tensorboard").glob("events.out.tfevents.*")):
        for event in _events(path):
            if event.session_log.status == SessionLog.START:
                points = {step: told for step, told in points.items() if step < event.step}
            for value in event.summary.value:
                if value.tag in (SPEED, WAIT):
                    # An epoch's last step may have two: the second is of what was under way.
                    points.setdefault(event.step, {}).setdefault(value.tag, value.simple_value)
    for step, told in sorted(points.items()):
        if len(told) == 2 and told[SPEED] > 0:
            yield Pace(step, told[SPEED], told[WAIT])


def _events(path: Path) -> Iterator[Event]:
    """The records of a TFRecord file: 8 bytes of length, 4 of their CRC, the record, 4 of its CRC;
    as far as they can be read: the last may be cut."""
    data, start = path.read_bytes(), 0
    while start + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        end = start + 12 + length
        if end + 4 > len(data):
            return
        try:
            yield Event.FromString(data[start + 12 : end])
        except DecodeError:
            return
        start = end + 4


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _word(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
