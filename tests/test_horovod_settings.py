"""Horovod's settings: their environment variables, and their effect in jobs of two ranks."""

from __future__ import annotations

import csv
import json
import os
from argparse import ArgumentParser
from collections import Counter
from dataclasses import fields

import pytest

from dist_ft.config import Config
from dist_ft.distributed.horovod_settings import (
    AUTOTUNE,
    CPU_CYCLE_MS,
    CYCLE,
    FUSION,
    HIERARCHICAL,
    TIMELINE,
    HorovodSettings,
)
from dist_ft.settings import flag_of
from tests.conftest import ENVIRONMENT, TINY, needs_mpi, run_job

NUM_GRADIENTS = 83  # of mobilenet0.25


@pytest.fixture
def environment(monkeypatch):
    """Without Horovod's variables; restores them afterwards."""
    for name in (AUTOTUNE, CYCLE, FUSION, HIERARCHICAL, TIMELINE):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return os.environ


def test_flags_override_the_users_environment(environment):
    environment.update({FUSION: "1", CYCLE: "3"})
    HorovodSettings(fusion_mb=8).apply(on_gpu=False)
    assert environment[FUSION] == str(8 * 2**20)
    assert environment[CYCLE] == "3"


@pytest.mark.parametrize(
    "settings, on_gpu, cycle",
    [
        (HorovodSettings(), False, CPU_CYCLE_MS),
        (HorovodSettings(), True, None),
        (HorovodSettings(cycle_ms=2.5), False, "2.5"),
        (HorovodSettings(autotune=True), False, None),  # a fixed cycle would not be tuned
    ],
)
def test_the_default_cycle_is_longer_on_a_cpu(environment, settings, on_gpu, cycle):
    settings.apply(on_gpu)
    assert environment.get(CYCLE) == cycle
    assert environment.get(AUTOTUNE) == ("1" if settings.autotune else None)


def train_flags(data, out, *more):
    return ["-m", "dist_ft.train", "--data", str(data), "--out", str(out), *TINY, *more]


@pytest.mark.jobs
def test_timeline_and_autotuning_of_a_run(tiny, tmp_path):
    timeline, log = tmp_path / "new" / "timeline.json", tmp_path / "autotune.csv"
    fast = {
        "HOROVOD_AUTOTUNE_LOG": str(log),
        "HOROVOD_AUTOTUNE_WARMUP_SAMPLES": "0",
        "HOROVOD_AUTOTUNE_STEPS_PER_SAMPLE": "1",
    }
    flags = ["--horovod-timeline", str(timeline), "--autotune", "--batch-size", "4"]
    words = train_flags(tiny, tmp_path / "run", *flags)
    ended = run_job(words, 90, num_ranks=2, environment={**ENVIRONMENT, **fast})
    assert ended.status == 0, ended.output
    assert num_allreduces(timeline) > 13 * NUM_GRADIENTS  # 14 steps; stopping may cut the last
    with log.open(newline="") as file:
        trials = list(csv.DictReader(file, skipinitialspace=True))
    assert trials and all(float(trial["cycle_time_ms"]) > 0 for trial in trials)


def num_allreduces(timeline):
    return Counter(event.get("name") for event in json.loads(timeline.read_text()))["ALLREDUCE"]


@pytest.mark.cluster
@pytest.mark.parametrize(
    "fault, message, mpi",
    [
        ("terminate", "stopped by SIGTERM", False),
        pytest.param("exception", "ZeroDivisionError", True, marks=needs_mpi),
    ],
)
def test_the_timeline_of_a_failed_run_is_valid_json(tiny, tmp_path, fault, message, mpi):
    timeline = tmp_path / "timeline.json"
    flags = train_flags(tiny, tmp_path / "run", "--horovod-timeline", str(timeline))[2:]
    ended = run_job(["tests/workers/fault.py", fault, "0", "2", *flags], 90, 2, mpi)
    assert ended.status != 0 and message in ended.output
    assert num_allreduces(timeline) >= NUM_GRADIENTS


@pytest.mark.jobs
@pytest.mark.parametrize(
    "flag, message, mpi",
    [
        ("--horovod-timeline={tmp}/file/x", "file/x: cannot write (", False),
        pytest.param("--hierarchical-allreduce", ": needs GPUs", True, marks=needs_mpi),
    ],
)
def test_unusable_settings_end_the_job_with_one_message(tiny, tmp_path, flag, message, mpi):
    (tmp_path / "file").write_text("")
    words = train_flags(tiny, tmp_path / "run", flag.format(tmp=tmp_path))
    ended = run_job(words, 60, num_ranks=2, mpi=mpi)
    assert ended.status != 0 and message in ended.output, ended.output
    assert "Traceback" not in ended.output.split("dist_ft: ")[0]
    assert not (tmp_path / "run").exists()


def test_horovodrun_does_not_take_our_flags_for_its_own(monkeypatch):
    """Its parser accepts its own flags, and abbreviations of them, after the command, too."""
    from horovod.runner import launch

    errors = []
    monkeypatch.setattr(ArgumentParser, "error", lambda self, message: errors.append(message))
    for field in fields(Config):
        words = ["horovodrun", "-np", "1", "python", "-m", "dist_ft.train", flag_of(field.name)]
        monkeypatch.setattr("sys.argv", [*words, "1"])
        args = launch.parse_args()
        assert errors == [], field.name
        assert args.command[-2:] == [flag_of(field.name), "1"]
