"""The comparison's arithmetic, and a brief run of each benchmark and contestant."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import catalog, photos, processes
from benchmarks.compare import NO_BFLOAT16
from benchmarks.machine import OtherLoad
from benchmarks.results import Ratio, as_markdown
from dist_ft.distributed import threads
from tests.conftest import ENVIRONMENT, REPO
from tests.images import make_folder

# A Python that has PyTorch: it cannot be installed beside MXNet, which needs an older numpy.
TORCH_PYTHON = os.environ.get("DIST_FT_TORCH_PYTHON", sys.executable)
HAS_TORCH = "DIST_FT_TORCH_PYTHON" in os.environ or importlib.util.find_spec("torch") is not None
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


@pytest.mark.benchmarks
@pytest.mark.parametrize("name", catalog.CONTESTANTS)
def test_contestants_run(data, name):
    """With a small network where it is dist_ft's; the others always use ResNet34_v2."""
    contestant = catalog.CONTESTANTS[name]
    is_torch = contestant.program.startswith("pytorch")
    if is_torch and not HAS_TORCH:
        pytest.skip("PyTorch is not installed: DIST_FT_TORCH_PYTHON names a Python that has it")
    if contestant.needs_bfloat16() and not threads.has_bfloat16():
        pytest.skip(NO_BFLOAT16)
    steps = "1" if contestant.max_epochs else "2"
    flags = ["--data", str(data), "--batch-size", "4", "--warmup", "1", "--steps", steps]
    if contestant.program.startswith("dist_ft"):
        flags += ["--model", "mobilenet0.25", "--image-size", "32"]
    result = processes.run(
        contestant.program,
        [*contestant.flags, *flags],
        contestant.num_ranks,
        dict(catalog.ONE_THREAD),  # other tests run at the same time
        TORCH_PYTHON if is_torch else sys.executable,
        timeout_s=120,
    )
    assert result["images_per_s"] > 0
    assert result["peak_mb"] > 0


@pytest.mark.skipif(threads.has_bfloat16(), reason="this processor has bfloat16")
def test_contestants_in_bfloat16_are_left_out_where_the_processor_has_none(data):
    ended = run("benchmarks.compare", "--only", "bfloat16$", "--data", str(data), *BRIEF)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count(NO_BFLOAT16) == 3


# Their processes: with a DataLoader's workers; two ranks, which horovodrun puts in own sessions.
@pytest.mark.benchmarks
@pytest.mark.parametrize(
    "signum, name, num_processes",
    [
        (signal.SIGINT, "train, original", 1 + catalog.RECIPE_WORKERS),
        (signal.SIGTERM, "train, Horovod example", 1 + 2),
        (signal.SIGINT, "ranks, training by two", 2),
    ],
)
def test_a_signal_ends_compare_with_all_processes_of_the_contestant(
    data, signum, name, num_processes
):
    flags = ["--data", str(data), "--only", f"^{name}$", "--steps", "1000000"]
    command = [sys.executable, "-m", "benchmarks.compare", *flags, "--batch-size", "2"]
    compare = psutil.Popen(command, cwd=REPO, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    module = f"benchmarks.contestants.{catalog.CONTESTANTS[name].program}"
    family = []
    try:
        deadline = time.monotonic() + 60
        while sum(module in words(process)[:3] for process in family) < num_processes:
            assert compare.poll() is None and time.monotonic() < deadline, family
            time.sleep(0.1)
            family = compare.children(recursive=True)
        compare.send_signal(signum)
        assert compare.wait(timeout=40) == 128 + signum
        assert not [process for process in family if words(process)]
    finally:
        for process in [*family, compare]:
            if process.is_running():
                process.kill()


def words(process: psutil.Process) -> list[str]:
    """The command line of a process, empty when it has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # also of a zombie, which nobody may reap in a container
        return []


@pytest.mark.benchmarks
def test_compare_writes_results_and_shows_them_again(data, tmp_path):
    file = tmp_path / "results.json"
    flags = ["--only", "^(loader, original|train, PyTorch float32)$", "--data", str(data), *BRIEF]
    ended = run("benchmarks.compare", *flags, "--json", str(file))
    assert ended.returncode == 0, ended.stderr
    if importlib.util.find_spec("torch") is None:
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
    ended = run(
        "benchmarks.decoders", "--data", str(data), "--images", "4", "--large", "1", "--rounds", "1"
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("\n| ") == 2 + 8


@pytest.mark.benchmarks
def test_the_loader_is_measured_on_large_photos(tmp_path):
    """The photos stay beside their sources."""
    sources = make_folder(tmp_path / "sources", train=(2, 2), test=(1, 1), side=64)
    flags = ["--photos", "4", "--rounds", "1", "--data", str(sources)]
    ended = run("benchmarks.large_loader", *flags, timeout_s=180)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("\n| ") == 2 + 3
    assert len(list(tmp_path.glob("sources-12mp-4/train/*/*.jpg"))) == 4
