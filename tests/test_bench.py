"""bench measures real runs, alone and with ranks, and names what limits them."""

import json
import re

import pytest

from dist_ft.data.augmentation import Augmentation
from dist_ft.data.image_folder import scan
from dist_ft.data.rank_batches import RankBatches
from dist_ft.data.transforms import InputSpec
from dist_ft.diagnostics import augmentation_costs, benchmark, scaling
from tests.conftest import TINY, run_job
from tests.images import make_folder

PARTS = {"wait for data": 0.0, "forward and backward": 0.9, "allreduce": 0.05, "update": 0.05}


@pytest.mark.parametrize(
    "changed_parts, settings, expected",
    [
        ({"wait for data": 0.3}, {}, "limited by decoding: try --cache"),
        ({"wait for data": 0.3, "allreduce": 0.3}, {}, "limited by decoding"),
        ({"allreduce": 0.3}, {}, "limited by the allreduce: try --compression"),
        ({}, {"fastest_dtype": "bfloat16"}, "limited by computation: --dtype bfloat16"),
        ({}, {"num_threads": 1}, "limited by computation on 1 of 2 cores: unset OMP_NUM_THREADS"),
        ({}, {}, "limited by computation: use a GPU"),
    ],
)
def test_the_advice_names_the_limit_and_a_remedy(changed_parts, settings, expected):
    result = {"step_s": 1.0, "dtype": "float32", "parts_s": {**PARTS, **changed_parts}}
    defaults = {"fastest_dtype": "float32", "num_threads": 2, "num_cores": 2}
    assert benchmark.advice(result, **{**defaults, **settings}).startswith(expected)


def test_the_scaling_table_compares_the_speed_per_process():
    lines = scaling.scaling_table({1: 100.0, 2: 150.0}).splitlines()
    assert "100.0%" in lines[0] and "75.0%" in lines[1]


def bench(tmp_path, mode, *flags, num_ranks=0):
    arguments = ["-m", "dist_ft.bench", mode, "--steps", "3", "--json", str(tmp_path / "b.json")]
    ended = run_job([*arguments, *flags], 100, num_ranks)
    assert ended.status == 0, ended.output
    return ended.output, json.loads((tmp_path / "b.json").read_text())


@pytest.mark.jobs
def test_one_and_two_processes_are_compared_and_their_steps_split_into_parts(tiny, tmp_path):
    output, results = bench(tmp_path, "train", "--np", "1,2", "--data", str(tiny), *TINY)
    assert list(results) == ["1", "2"]
    for size, result in results.items():
        assert result["images_per_s"] > 0
        assert list(result["parts_s"]) == list(PARTS)
        assert f"images/s on {size} x cpu(0)" in output
    assert results["2"]["parts_s"]["allreduce"] > 0
    assert output.count("limited by ") == 2
    assert "per process" in output


@pytest.mark.jobs
def test_the_loader_and_a_step_in_memory_are_measured_alone(tiny, tmp_path):
    augmentation = ["--jitter", "0.4", "--random-erasing", "0.5", "--mixup", "0.4"]
    output, result = bench(tmp_path, "loader", "--data", str(tiny), *TINY, *augmentation)
    assert result["images_per_s"] > 0 and "loader: " in output
    assert list(result["us_per_image"]) == [
        *("decode, crop and flip", "jitter", "random_erasing", "mixup and cutmix")
    ]
    for name, cost_us in result["us_per_image"].items():
        assert 0 < cost_us < 1e6
        assert re.search(rf"{name} +{cost_us:.1f} us of CPU time per image", output)
    output, result = bench(tmp_path, "step", "--data", str(tiny), *TINY)
    assert result["images_per_s"] > 0 and "step: " in output
    assert result["parts_s"]["wait for data"] == 0


@pytest.mark.jobs
def test_allreduces_are_measured_by_size(tmp_path):
    output, result = bench(tmp_path, "allreduce", num_ranks=2)
    assert [int(size) for size in result["allreduce_s"]] == benchmark.ALLREDUCE_SIZES
    assert output.count(" GB/s") == len(benchmark.ALLREDUCE_SIZES)


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["allreduce"], 1, "add --np 2"),
        (["step", "--np", "2", "--lr", "-1"], 2, "--lr -1.0: must be at least 0"),
    ],
)
def test_what_cannot_be_measured_is_named(arguments, status, message):
    ended = run_job(["-m", "dist_ft.bench", *arguments], 60)
    assert ended.status == status
    assert message in ended.output


def test_the_cost_of_an_augmentation_is_that_of_readable_images(tmp_path):
    dataset = scan(str(make_folder(tmp_path, [3, 2], [1, 1])))
    (dataset.train.root / dataset.train.paths[1]).write_bytes(b"not an image")
    a = Augmentation(trivial_augment=True)
    batches = RankBatches(dataset, InputSpec(32, 32, False), 0, 0, 1, 1, 1, augmentation=a)
    costs_us = augmentation_costs.measure(batches, max_images=10)
    batches.close()
    assert list(costs_us) == [augmentation_costs.CROP, "trivial_augment"]
    assert all(0 < cost_us < 1e6 for cost_us in costs_us.values())
