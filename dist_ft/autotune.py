"""What Horovod's tuner has found for a network and its ranks, kept from run to run.

The tuner tries settings while a run goes on, and scores each by the bytes that are summed a second.
Its log ends with the best of them, so that a last line which repeats an earlier one says that it is
done. A run that ends before has nothing worth keeping: what it tried last may be the worst.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from dist_ft import files
from dist_ft.errors import UserError

FUSION, CYCLE = "HOROVOD_FUSION_THRESHOLD", "HOROVOD_CYCLE_TIME"
HIERARCHICAL, LOG = "HOROVOD_HIERARCHICAL_ALLREDUCE", "HOROVOD_AUTOTUNE_LOG"

# Horovod's own measures take 1,100 steps and more, which is longer than most fine-tuning lasts:
# scores are medians of five samples, and these are as many trials of shorter ones.
TRIALS = {
    "HOROVOD_AUTOTUNE_WARMUP_SAMPLES": "1",
    "HOROVOD_AUTOTUNE_STEPS_PER_SAMPLE": "2",
    "HOROVOD_AUTOTUNE_BAYES_OPT_MAX_SAMPLES": "14",
}
NUM_STEPS = 180  # that they take
# Each of these would double the trials, and most do nothing for gradients: fixed to the defaults.
FIXED = {
    HIERARCHICAL: "0",
    "HOROVOD_HIERARCHICAL_ALLGATHER": "0",
    "HOROVOD_TORUS_ALLREDUCE": "0",
    "HOROVOD_CACHE_CAPACITY": "1024",
}
MOST_FUSION_MB, MOST_CYCLE_MS = 4096.0, 1000.0  # what a file may say


class Best(NamedTuple):
    fusion_mb: float
    cycle_ms: float

    def environment(self) -> dict[str, str]:
        return {FUSION: str(round(self.fusion_mb * 2**20)), CYCLE: str(self.cycle_ms)}

    def __str__(self) -> str:
        return f"fusion buffer {self.fusion_mb:.3g} MB, cycle {self.cycle_ms:.3g} ms"


class Tuner:
    """Rank 0's side of it, in one run.

    folder: where findings are kept; found_for: all that they depend on, as JSON keeps it.
    """

    def __init__(self, folder: Path, found_for: dict[str, Any]):
        self._found_for = json.loads(json.dumps(found_for))
        words = json.dumps(self._found_for, sort_keys=True)
        self.file = folder / f"{hashlib.sha256(words.encode()).hexdigest()[:16]}.json"
        self.best = read(self.file, self._found_for)
        self._log = folder / f".{self.file.stem}.{os.getpid()}.log"

    def environment(self) -> dict[str, str]:
        """That Horovod is to start with on all ranks: of what is known, or of a search for it."""
        if self.best:
            return self.best.environment()
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._log.write_bytes(b"")
        except OSError as error:
            raise UserError(
                f"--autotune: {self.file.parent} cannot be written ({error.strerror}): make room,"
                " or name another cache with XDG_CACHE_HOME"
            ) from error
        return {"HOROVOD_AUTOTUNE": "1", LOG: str(self._log), **TRIALS, **FIXED}

    def greeting(self) -> str:
        if self.best:
            return f"autotune: {self.best}, as found before: {self.file}"
        return f"autotune: tries settings of Horovod in some {NUM_STEPS} steps, for {self.file}"

    def end(self) -> str | None:
        """Keeps what was found, when Horovod is done; a line about it."""
        if self.best:
            return None
        log = Path(os.environ.get(LOG, self._log))
        best, num_trials = found(log)
        with suppress(FileNotFoundError):
            self._log.unlink()
        if best is None:
            return (
                f"autotune: the run ended after {num_trials} trials, before the tuner had: nothing"
                f" is kept; it needs some {NUM_STEPS} steps"
            )
        try:
            with files.output_file(self.file, "--autotune") as beside:
                words = {"found for": self._found_for, "best": best._asdict()}
                beside.write_text(json.dumps(words, indent=1) + "\n", encoding="utf-8")
        except UserError as error:  # the run is over, and has all else
            return f"autotune: {error}"
        return f"autotune: {best}; kept in {self.file}"


def found(log: Path) -> tuple[Best | None, int]:
    """The best settings of a tuner's log, if it came to its end, and how many trials it made."""
    try:
        with open(log, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except OSError:
        return None, 0
    *trials, last = rows or [{}]
    best = max(trials, key=lambda row: float(row["score"] or 0), default=None)
    if best != last:
        return None, len(rows)
    fusion_mb, cycle_ms = float(last["tensor_fusion_threshold"]), float(last["cycle_time_ms"])
    return Best(fusion_mb, cycle_ms), len(trials)


def read(file: Path, found_for: dict[str, Any]) -> Best | None:
    """What a file keeps; None where there is none, or it is cut, foreign or for something else."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        best = Best(**told["best"])
        fits = (
            told["found for"] == found_for
            and 0 <= best.fusion_mb <= MOST_FUSION_MB
            and 0 < best.cycle_ms <= MOST_CYCLE_MS
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return best if fits else None
