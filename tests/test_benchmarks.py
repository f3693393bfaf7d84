"""The comparison's arithmetic, and a brief run of each benchmark and contestant."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import catalog, photos, processes
from benchmarks.machine import OtherLoad
from benchmarks.results import Ratio, as_markdown
from tests.conftest import ENVIRONMENT, REPO
from tests.images import make_folder

HAS_TORCH = importlib.util.find_spec("torch") is not None
BRIEF = ["--rounds", "1", "--steps", "1", "--epochs", "1", "--batch-size", "4"]


def run(*arguments: str, timeout_s: float = 90) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=REPO,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images of the sizes that the contestants' RandomResizedCrop(224) accepts."""
    root = tmp_path_factory.mktemp("benchmarks") / "data"
    return make_folder(root, train=(8, 8), test=(2, 2), side=64)


results = st.builds(
    lambda speed: {"images_per_s": speed, "peak_mb": 1.0, "others": 0.0}, st.floats(1e-3, 1e6)
)


@given(st.lists(st.tuples(results, results), min_size=1, max_size=5))
def test_a_ratio_is_the_inverse_of_the_swapped_ratio(pairs):
    rounds = dict(zip("ab", zip(*pairs)))
    ratio = Ratio("", "a", "b").by_round(rounds)
    inverse = Ratio("", "b", "a").by_round(rounds)
    np.testing.assert_allclose(np.multiply(ratio, inverse), 1)
    assert Ratio("", "a", "a").by_round(rounds) == [1] * len(pairs)


def test_two_ranks_are_compared_with_twice_one():
    rounds = {"one": [{"images_per_s": 10}], "two": [{"images_per_s": 19}]}
    assert Ratio("", "two", "one", times=2).by_round(rounds) == [0.95]
    assert Ratio("", "two", "three").by_round(rounds) == []


def test_tables_show_the_contestants_and_ratios_that_have_results():
    result = {"images_per_s": 15.0, "peak_mb": 100.0, "others": 0.25}
    rounds = {
        "loader, dist_ft": [result],
        "loader, original": [{**result, "images_per_s": 2.5}],
        "left out": [],
    }
    text = as_markdown(rounds, catalog.RATIOS)
    assert "15.0" in text and "6.000" in text and "25%" in text
    assert "left out" not in text and "PyTorch" not in text


def test_the_load_of_other_processes_is_a_share():
    with OtherLoad() as others:
        subprocess.run([sys.executable, "-c", "sum(range(10**6))"], check=True)
    assert 0 <= others.share <= 1.1  # the system counts in hundredths of a second


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs images as train/CLASS"):
        photos.describe(tmp_path)


@pytest.mark.parametrize(
    "flags", [["--rounds", "0"], ["--steps", "-1"], ["--batch-size", "x"], ["--only", "("]]
)
def test_invalid_flags_are_refused(flags):
    refused = run("benchmarks.compare", *flags)
    assert refused.returncode == 2
    assert flags[0] in refused.stderr


# One contestant of each kind: the others are the same programs with other settings.
KINDS = {(c.program, c.flags[0], c.num_ranks): c for c in reversed(catalog.CONTESTANTS.values())}


@pytest.mark.benchmarks
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_contestants_run(data, kind):
    """With a small network where it is dist_ft's; the others always use ResNet34_v2."""
    contestant = KINDS[kind]
    if contestant.program.startswith("pytorch") and not HAS_TORCH:
        pytest.skip("PyTorch is not installed")
    flags = ["--data", str(data), "--batch-size", "4", "--warmup", "1", "--steps", "1"]
    if contestant.program.startswith("dist_ft"):
        flags += ["--model", "mobilenet0.25", "--image-size", "32"]
    flags, environ = [*contestant.flags, *flags], dict(contestant.environ)
    result = processes.run(contestant.program, flags, contestant.num_ranks, environ, timeout_s=120)
    assert result["images_per_s"] > 0
    assert result["peak_mb"] > 0


@pytest.mark.benchmarks
def test_compare_writes_results_and_shows_them_again(data, tmp_path):
    file = tmp_path / "results.json"
    flags = ["--only", "^(loader, original|train, PyTorch float32)$", "--data", str(data), *BRIEF]
    ended = run("benchmarks.compare", *flags, "--json", str(file))
    assert ended.returncode == 0, ended.stderr
    if not HAS_TORCH:
        reasons = json.loads(file.read_text())["left_out"]
        assert "No module named 'torch'" in reasons["train, PyTorch float32"]
    assert "| loader, original " in ended.stdout
    shown = run("benchmarks.compare", "--show", str(file))
    assert shown.stdout == ended.stdout


@pytest.mark.benchmarks
def test_a_contestant_that_fails_is_left_out_and_gives_status_1(tmp_path):
    data = make_folder(tmp_path / "data", train=(1, 1), test=(1, 1))
    (data / "test").rename(data / "elsewhere")
    (data / "test" / "unknown").mkdir(parents=True)
    os.link(next((data / "elsewhere").glob("*/*")), data / "test" / "unknown" / "image.jpg")
    ended = run("benchmarks.compare", "--only", "^loader, dist_ft$", "--data", str(data), *BRIEF)
    assert ended.returncode == 1, ended.stderr
    assert "left out: loader, dist_ft: status 1: dist_ft: " in ended.stderr


@pytest.mark.benchmarks
def test_the_decoders_are_compared(data):
    ended = run("benchmarks.decoders", "--data", str(data), "--images", "4", "--rounds", "1")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("\n| ") == 2 + 6
