"""The format of test_scores.json: a run's best network, selected on val, on the test images."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from dist_ft.errors import UserError
from dist_ft.files import atomic_file

NAME = "test_scores.json"


@dataclass(frozen=True)
class TestScores:
    step: int  # of the best checkpoint
    val_accuracy: float  # by which it was selected
    loss: float
    accuracy: float
    accuracy_top5: float
    correct: int
    images: int
    confusion: list[list[int]]  # images of class [row] that were predicted as [column]
    fingerprint: str  # number and fingerprint of the test images

    def write(self, run: Path) -> None:
        """Writes the file in the folder of a run, atomically. Raises OSError."""
        with atomic_file(run / NAME) as path:
            path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")


def read(run: Path) -> TestScores | None:
    """The scores in the folder of a run; None if it has none. Raises UserError."""
    path = run / NAME
    if not path.exists():
        return None
    try:
        return TestScores(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be read as scores of dist_ft.train ({error}); remove it, and the test"
            " images are scored again"
        ) from error
