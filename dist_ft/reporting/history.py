"""Reads a run's folder: its settings, its scores of each epoch, and its best checkpoint."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from dist_ft.config import Config
from dist_ft.errors import UserError
from dist_ft.recipe_settings import DataSettings
from dist_ft.settings import flag_of
from dist_ft.tracking import epoch_scores, test_scores
from dist_ft.tracking.epoch_scores import EpochScores, RankTimes
from dist_ft.tracking.test_scores import TestScores
from dist_ft.training import checkpoint
from dist_ft.training.checkpoint import Checkpoint

REQUIRED_SETTINGS = {"data", "model"}
DEFAULTS = {f.name: f.default for f in fields(Config)}


@dataclass(frozen=True)
class RunHistory:
    folder: Path
    settings: dict[str, Any]
    epochs: list[EpochScores]  # at least one
    checkpoint: Checkpoint | None  # the best one
    test_scores: TestScores | None = None  # of a network that was selected on other images

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def best(self) -> EpochScores:
        """The epoch of the highest accuracy; the earliest if several are equal."""
        return max(self.epochs, key=lambda epoch: epoch.accuracy)

    @property
    def split(self) -> str:
        """The split that has selected the best epoch, 'val' or 'test'."""
        return self.best.split

    @property
    def result(self) -> EpochScores | TestScores:
        """The scores to report: on the test images, if there are any."""
        return self.test_scores or self.best

    @property
    def result_split(self) -> str:
        return "test" if self.test_scores else self.split

    @property
    def confusion(self) -> np.ndarray:
        """(C, C) of the result: images of class [row] that were predicted as [column]."""
        return np.array(self.result.confusion, np.int64)

    @property
    def elapsed_s(self) -> float:
        return sum(epoch.elapsed_s for epoch in self.epochs)

    @property
    def facts(self) -> dict[str, Any]:
        """Versions and data set of the run, as its checkpoint has them; empty without one."""
        return self.checkpoint.state.run_spec if self.checkpoint else {}

    @property
    def classes(self) -> list[str]:
        """Class names; numbers if there is no checkpoint."""
        numbered = [f"class {label}" for label in range(len(self.best.confusion))]
        return self.checkpoint.state.classes if self.checkpoint else numbered

    @property
    def images_per_s(self) -> float | None:
        """Training speed over all ranks, of the median epoch; None if it was not recorded."""
        speeds = [epoch.images_per_s for epoch in self.epochs if epoch.images_per_s is not None]
        return float(np.median(speeds)) if speeds else None

    @property
    def data_wait_share(self) -> float | None:
        """Share of the steps' time that rank 0 waited for images: the mean over epochs, 0..1."""
        shares = [e.data_wait_share for e in self.epochs if e.data_wait_share is not None]
        return float(np.mean(shares)) if shares else None

    def rank_times(self) -> list[RankTimes]:
        """Each rank's times of all epochs: sums, but `step_s` is the median; empty for one rank."""
        times = [rank for epoch in self.epochs for rank in epoch.ranks]
        totals = []
        for rank, host in sorted({(time.rank, time.host) for time in times}):
            own = [time for time in times if (time.rank, time.host) == (rank, host)]
            totals.append(
                RankTimes(
                    rank,
                    host,
                    step_s=float(np.median([time.step_s for time in own])),
                    data_s=sum(time.data_s for time in own),
                    rest_s=sum(time.rest_s for time in own),
                    others_s=sum(time.others_s for time in own),
                )
            )
        return totals

    def data_settings(self, data: str) -> DataSettings:
        """The run's, with the data set in another folder."""
        names = {f.name for f in fields(DataSettings)} & self.settings.keys()
        return DataSettings(**{**{name: self.settings[name] for name in names}, "data": data})

    def changed_settings(self) -> dict[str, Any]:
        """The settings that differ from their defaults, and always `data`."""
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in self.settings.items()}
        return {k: v for k, v in values.items() if k == "data" or v != DEFAULTS.get(k, v)}

    def command(self) -> str:
        """A shell command that repeats the run in a new folder."""
        num_ranks = self.checkpoint.state.num_ranks if self.checkpoint else 1
        words = ["horovodrun", "-np", str(num_ranks)] if num_ranks > 1 else []
        words += ["python", "-m", "dist_ft.train"]
        for name, value in self.changed_settings().items():
            if name == "out" or (name, value) == ("resume", "never"):
                continue
            for item in value if isinstance(value, tuple) else (value,):
                yes_or_no = "yes" if item else "no"
                words += [flag_of(name), yes_or_no if isinstance(item, bool) else str(item)]
        return shlex.join([*words, "--out", f"{self.folder}-again"])


def read(folder: Path) -> RunHistory:
    """Raises UserError if the folder is not that of a run with at least one complete epoch."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        epochs = epoch_scores.read(folder / "scores.jsonl")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: not a run of dist_ft.train ({error}); name the --out folder of a run"
        ) from error
    if not (isinstance(settings, dict) and settings.keys() >= REQUIRED_SETTINGS):
        raise UserError(
            f"{folder / 'config.json'}: was not written by dist_ft.train; name the --out folder of"
            " a run"
        )
    if not epochs:
        raise UserError(f"{folder}: no epoch is complete, so there are no scores to show")
    best, scores = checkpoint.best(folder), test_scores.read(folder)
    if best and scores and best.step != scores.step:
        scores = None  # the run went on, found a better epoch, and was stopped before its end
    return RunHistory(folder, settings, epochs, best, scores)
