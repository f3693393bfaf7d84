"""The format of scores.jsonl: one JSON line per epoch, written by a run and read by its report."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from dist_ft.errors import UserError

OPTIONAL = ("accuracy_top5", "images_per_s", "data_wait_share")
# The fields whose names in the file start with that of the split, as "test_loss".
OF_SPLIT = ("loss", "accuracy", "correct", "images", "accuracy_top5")


@dataclass(frozen=True)
class RankTimes:
    """How one rank spent the training steps of an epoch, in seconds."""

    rank: int
    host: str
    step_s: float  # one step, without waiting for other ranks
    data_s: float  # waiting for decoded images
    rest_s: float  # computing and writing
    others_s: float  # waiting for other ranks, and reducing


@dataclass(frozen=True)
class EpochScores:
    """One line of scores.jsonl; values that do not apply or were not measured are left out."""

    epoch: int  # counted from 1
    step: int  # steps since the start of the run
    train_loss: float
    train_accuracy: float
    loss: float  # on the split that selects the best epoch
    accuracy: float
    correct: int
    images: int
    elapsed_s: float  # training, evaluation and checkpoint
    confusion: list[list[int]]  # images of class [row] that were predicted as [column]
    accuracy_top5: float | None = None  # for more than five classes
    images_per_s: float | None = None  # training steps only, all ranks
    data_wait_share: float | None = None  # of the time of the steps, on rank 0, 0..1
    ranks: tuple[RankTimes, ...] = ()  # for more than one rank
    split: str = "test"  # or "val"

    def to_json(self) -> str:
        values = {k: v for k, v in asdict(self).items() if v not in (None, ())}
        split = values.pop("split")
        return json.dumps({f"{split}_{k}" if k in OF_SPLIT else k: v for k, v in values.items()})

    @staticmethod
    def from_json(line: str) -> EpochScores:
        """Unknown keys are ignored. Raises ValueError for a line that is not a row of scores."""
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError(f"expected an object, found {line[:40]!r}")
        split = "val" if "val_loss" in row else "test"
        keys = {
            f.name: f"{split}_{f.name}" if f.name in OF_SPLIT else f.name
            for f in fields(EpochScores)
        }
        known = {name: row[key] for name, key in keys.items() if key in row}
        try:
            times = tuple(RankTimes(**rank) for rank in known.pop("ranks", ()))
            scores = EpochScores(**{**known, "ranks": times, "split": split})
            scores._check_types()
        except TypeError as error:
            raise ValueError(str(error)) from error
        return scores

    def _check_types(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            is_missing = value is None and f.name in OPTIONAL
            is_number = isinstance(value, (int, float))
            if f.name not in ("confusion", "ranks", "split") and not is_missing and not is_number:
                raise ValueError(f"{f.name} is {value!r}, not a number")
        num_classes = len(self.confusion)
        for row in self.confusion:
            if len(row) != num_classes or not all(isinstance(count, int) for count in row):
                raise ValueError("confusion is not a square matrix of counts")


def read(path: Path) -> list[EpochScores]:
    """All complete rows of a scores.jsonl.

    A line that is not JSON is skipped: a killed process leaves its last line incomplete. Raises
    UserError for rows of another program, OSError if the file cannot be read.
    """
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(EpochScores.from_json(line))
        except json.JSONDecodeError:
            continue
        except ValueError as error:
            raise UserError(
                f"{path}: was not written by dist_ft.train ({error}); name the --out folder of"
                " a run"
            ) from error
    return rows
