"""bench: every mode measures a real run, alone and with ranks, and says what limits it."""

import json

import pytest

from dist_ft.diagnostics import benchmark
from tests.conftest import TINY, run_job

PARTS = {"wait for data": 0.0, "forward and backward": 0.9, "allreduce": 0.05, "update": 0.05}
NETWORK = "the network's sums"


@pytest.mark.parametrize(
    "changed, settings, words",
    [
        ({"wait for data": 0.3}, {}, "limited by decoding: --cache"),
        ({"wait for data": 0.3, "allreduce": 0.3}, {}, "limited by decoding"),
        ({"allreduce": 0.3}, {}, "limited by the allreduce: --compression"),
        ({}, {"quickest": "bfloat16"}, f"limited by {NETWORK}: --dtype bfloat16"),
        ({}, {"threads": 1}, f"limited by {NETWORK} on 1 of 2 cores: unset OMP_NUM_THREADS"),
        ({}, {}, f"limited by {NETWORK}: a GPU"),
    ],
)
def test_the_advice_names_the_limit_and_a_remedy(changed, settings, words):
    where = {"dtype": "float32", "quickest": "float32", "threads": 2, "cores": 2, **settings}
    assert benchmark.advice(1.0, {**PARTS, **changed}, **where).startswith(words)


def measured(tmp_path, mode, *flags, num_ranks=0):
    words = ["-m", "dist_ft.bench", mode, "--steps", "3", "--json", str(tmp_path / "b.json")]
    ended = run_job([*words, *flags], 100, num_ranks)
    assert ended.status == 0, ended.output
    return ended.output, json.loads((tmp_path / "b.json").read_text())


def test_one_and_two_processes_are_compared_and_their_steps_split(tiny, tmp_path):
    output, results = measured(tmp_path, "train", "--np", "1,2", "--data", str(tiny), *TINY)
    assert list(results) == ["1", "2"]
    for size, result in results.items():
        assert result["images_per_s"] > 0
        assert list(result["parts_s"]) == list(PARTS)
        assert all(seconds >= 0 for seconds in result["parts_s"].values())
        assert f"images/s on {size} x cpu(0)" in output
    assert results["2"]["parts_s"]["allreduce"] > 0
    assert output.count("\nlimited by ") == 2
    assert "% of 1's each" in output


@pytest.mark.parametrize("mode", ["loader", "step"])
def test_the_other_modes_of_one_process(tiny, tmp_path, mode):
    output, result = measured(tmp_path, mode, "--data", str(tiny), *TINY)
    assert result["images_per_s"] > 0
    assert f"{mode}: " in output
    if mode == "step":
        assert result["parts_s"]["wait for data"] == 0


def test_sums_over_the_ranks_are_measured_by_their_size(tmp_path):
    output, result = measured(tmp_path, "allreduce", num_ranks=2)
    assert [int(size) for size in result["allreduce_s"]] == benchmark.SUMMED
    assert output.count(" GB/s") == len(benchmark.SUMMED)


def test_one_process_is_told_that_it_has_nothing_to_sum():
    ended = run_job(["-m", "dist_ft.bench", "allreduce"], 60)
    assert ended.status == 1
    assert "--np 2" in ended.output


def test_settings_that_cannot_be_used_are_told_before_anything_is_started():
    ended = run_job(["-m", "dist_ft.bench", "step", "--np", "2", "--lr", "-1"], 60)
    assert ended.status == 2
    assert "--lr -1.0: must be at least 0" in ended.output
