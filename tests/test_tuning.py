"""tuning: what Horovod is told, its timeline, and what its tuner finds, in real jobs."""

from __future__ import annotations

import json
import os
import re
from argparse import ArgumentParser
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_ft import autotune
from dist_ft.autotune import Best
from dist_ft.config import Config
from dist_ft.distributed import horovod_settings
from dist_ft.settings import flag_of
from dist_ft.training import checkpoint
from tests.conftest import ENVIRONMENT, TINY, needs_mpi, run_job, train

LAUNCHERS = [pytest.param(False, id="gloo"), pytest.param(True, id="mpi", marks=needs_mpi)]
HEAD = "hierarchical_allreduce,hierarchical_allgather,torus_allreduce,cache_enabled,cycle_time_ms,"
HEAD += "tensor_fusion_threshold,score"
# Three trials of a step a sample, in 16 steps.
SHORT = {
    "HOROVOD_AUTOTUNE_WARMUP_SAMPLES": "0",
    "HOROVOD_AUTOTUNE_STEPS_PER_SAMPLE": "1",
    "HOROVOD_AUTOTUNE_BAYES_OPT_MAX_SAMPLES": "2",
}


def words_of(data, out, *more):
    return ["--data", str(data), "--out", str(out), *TINY, "--bn", "frozen", *more]


def kinds(timeline):
    return Counter(event.get("name") for event in json.loads(timeline.read_text()))


@pytest.mark.parametrize("mpi", LAUNCHERS)
def test_a_timeline_shows_the_sums_of_all_gradients(tiny, tmp_path, mpi):
    file = tmp_path / "new" / "timeline.json"
    flags = words_of(tiny, tmp_path / "run", "--horovod-timeline", str(file))
    train(*flags, num_ranks=2, mpi=mpi)
    seen = kinds(file)
    assert seen["ALLREDUCE"] == seen["NEGOTIATE_ALLREDUCE"] > 3 * 80  # steps x gradients


@pytest.mark.parametrize("kind, told", [("terminate", "stopped by SIGTERM"), ("exception", "Zero")])
def test_a_timeline_is_whole_where_a_run_is_cut_short(tiny, tmp_path, kind, told):
    file = tmp_path / "timeline.json"
    flags = words_of(tiny, tmp_path / "run", "--horovod-timeline", str(file))
    ended = run_job(["tests/workers/fault.py", kind, "0", "2", *flags], 90, num_ranks=2)
    assert ended.status != 0 and told in ended.output
    assert kinds(file)["ALLREDUCE"] > 80


@pytest.mark.parametrize("mpi", LAUNCHERS)
def test_what_cannot_be_written_or_summed_so_ends_the_job_with_a_word(tiny, tmp_path, mpi):
    (tmp_path / "file").write_text("")
    for flags, told in (
        (["--horovod-timeline", str(tmp_path / "file" / "x")], "x: cannot be written"),
        (["--hierarchical-allreduce"], "--hierarchical-allreduce: takes GPUs"),
    ):
        words = ["-m", "dist_ft.train", *words_of(tiny, tmp_path / "run", *flags)]
        ended = run_job(words, 60, num_ranks=2, mpi=mpi)
        assert ended.status != 0 and told in ended.output, ended.output
        assert "Traceback" not in ended.output.split("dist_ft: ")[0]
        assert not (tmp_path / "run").exists()


@pytest.fixture
def short_search(tmp_path, monkeypatch):
    """Makes a search as short as can be; where what it finds is kept."""
    monkeypatch.setitem(ENVIRONMENT, "XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, value in SHORT.items():
        monkeypatch.setitem(ENVIRONMENT, name, value)
    return tmp_path / "cache" / "dist_ft" / "tuning"


def tuned(data, out, *flags, mpi=False):
    """What a run of 14 steps an epoch printed, and its parameters."""
    words = [*words_of(data, out, "--resume", "never", "--batch-size", "4"), *flags]
    output = train(*words, num_ranks=2, mpi=mpi).output
    arrays = checkpoint.latest(out).net_arrays()
    return output, {name: array.asnumpy() for name, array in arrays.items()}


def test_what_the_tuner_finds_is_used_again_and_changes_no_result(tiny, tmp_path, short_search):
    out, long = tmp_path / "run", ["--epochs", "3"]
    plain, expected = tuned(tiny, out, *long)
    assert "autotune" not in plain
    short, _ = tuned(tiny, out, "--max-steps", "1", "--autotune")
    assert re.search(r"the run ended after \d trials, before the tuner had: nothing is kept", short)
    assert not list(short_search.iterdir())

    searched, found = tuned(tiny, out, *long, "--autotune")
    assert "autotune: tries settings of Horovod" in searched
    (file,) = short_search.iterdir()
    assert f"kept in {file}" in searched
    best = Best(**json.loads(file.read_text())["best"])
    reused, again = tuned(tiny, out, *long, "--autotune")
    assert f"autotune: {best}, as found before: {file}" in reused
    assert "tries" not in reused
    for name, array in expected.items():
        for theirs in (found[name], again[name]):
            np.testing.assert_allclose(theirs, array, rtol=0, atol=1e-5, err_msg=name)

    file.write_bytes(file.read_bytes()[:-20])
    assert f"kept in {file}" in tuned(tiny, out, *long, "--autotune")[0]
    assert json.loads(file.read_text())["best"].keys() == best._asdict().keys()


@needs_mpi
def test_ranks_that_mpi_starts_hear_of_the_search_and_of_what_it_found(
    tiny, tmp_path, short_search
):
    flags = tiny, tmp_path / "run", "--epochs", "3", "--autotune"
    assert "autotune: tries settings" in tuned(*flags, mpi=True)[0]
    (file,) = short_search.iterdir()
    assert f"as found before: {file}" in tuned(*flags, mpi=True)[0]


def test_one_process_says_that_it_sums_nothing(tiny, tmp_path):
    file = tmp_path / "timeline.json"
    ended = train(*words_of(tiny, tmp_path / "run", "--horovod-timeline", str(file)))
    assert "one process sums nothing" in ended.output
    assert not file.exists()


settings_found = st.builds(Best, st.floats(0, 64), st.floats(1, 100))


@given(settings_found, st.dictionaries(st.text(), st.integers()), st.integers(0, 200))
def test_a_file_that_is_cut_or_for_something_else_is_none(tmp_path_factory, best, what, length):
    file = tmp_path_factory.mktemp("kept") / "file.json"
    whole = json.dumps({"found for": what, "best": best._asdict()})
    file.write_text(whole)
    assert autotune.read(file, what) == best
    assert autotune.read(file, {**what, "": None}) is None
    file.write_text(whole[: min(length, len(whole) - 1)])
    assert autotune.read(file, what) is None


@pytest.mark.parametrize(
    "text", ["[]", '{"best": []}', '{"found for": {}, "best": {"fusion_mb": -1, "cycle_ms": 1}}']
)
def test_a_foreign_file_is_none(tmp_path, text):
    (tmp_path / "file.json").write_text(text)
    assert autotune.read(tmp_path / "file.json", {}) is None
    assert autotune.read(tmp_path / "nowhere.json", {}) is None


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(0, 64), st.integers(1, 10**6)), min_size=1))
def test_a_log_is_at_its_end_where_the_last_line_repeats_the_best(tmp_path_factory, trials):
    log = tmp_path_factory.mktemp("log") / "log"
    lines = [f"0,0,0, 1,{cycle},{fusion},{score}" for cycle, fusion, score in trials]
    best = max(trials, key=lambda trial: trial[2])
    log.write_text("\n".join([HEAD, *lines, lines[trials.index(best)]]) + "\n")
    assert autotune.found(log) == (Best(best[1], best[0]), len(trials))
    log.write_text("\n".join([HEAD, *lines]) + "\n")
    if lines[-1] not in lines[:-1]:
        assert autotune.found(log) == (None, len(trials))


def test_a_flag_wins_over_the_users_environment_and_that_over_the_rest(monkeypatch):
    asked = horovod_settings.of(Config(fusion_mb=8))
    monkeypatch.setenv(horovod_settings.CYCLE, "3")
    monkeypatch.setenv(horovod_settings.FUSION, "1")
    assert horovod_settings.begin(asked, on_gpu=False) is None
    assert os.environ[horovod_settings.FUSION] == str(8 * 2**20)
    assert os.environ[horovod_settings.CYCLE] == "3"
    monkeypatch.delenv(horovod_settings.CYCLE)
    horovod_settings.begin(asked, on_gpu=True)
    assert horovod_settings.CYCLE not in os.environ
    horovod_settings.begin(asked, on_gpu=False)
    assert os.environ[horovod_settings.CYCLE] == horovod_settings.CPU_CYCLE_MS


def test_horovodrun_takes_no_flag_of_ours_for_one_of_its(monkeypatch):
    """It looks for its own, also shortened ones, behind the command too."""
    from horovod.runner import launch

    refused = []
    monkeypatch.setattr(ArgumentParser, "error", lambda self, message: refused.append(message))
    for field in fields(Config):
        words = ["horovodrun", "-np", "1", "python", "-m", "dist_ft.train", flag_of(field.name)]
        monkeypatch.setattr("sys.argv", [*words, "1"])
        args = launch.parse_args()
        assert refused == [], field.name
        assert args.command[-2:] == [flag_of(field.name), "1"]
