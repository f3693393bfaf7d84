"""dist_ft: a training run and its scores. The flags are those of dist_ft.train."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path

from benchmarks.contestants import clock
from dist_ft import settings_flags, train
from dist_ft.tracking import epoch_scores, test_scores


def main() -> None:
    train.main()
    if os.environ.get("HOROVOD_RANK", "0") == "0":
        print(json.dumps(scores_of(settings_flags.parse().folder)), flush=True)


def scores_of(folder: Path) -> dict[str, object]:
    """The results of a finished run; without test images, only those on validation images."""
    rows, test = epoch_scores.read(folder / "scores.jsonl"), test_scores.read(folder)
    val = [row.accuracy for row in rows]
    scores = {
        "val_accuracy": max(val),
        "last_val_accuracy": val[-1],
        "best_epoch": 1 + val.index(max(val)),
        "images_per_s": statistics.median(row.images_per_s or 0 for row in rows),
        "elapsed_s": sum(row.elapsed_s for row in rows),
        "peak_mb": clock.peak_memory_mb(),
    }
    if test:
        scores.update(test_accuracy=test.accuracy, confusion=test.confusion)
    return scores


if __name__ == "__main__":
    main()
