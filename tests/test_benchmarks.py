"""The benchmarks' arithmetic, and that each of their programs starts. They are not run here."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import collective, photos, published
from benchmarks.collective import Cluster, Cost, Sample
from benchmarks.compare import parse, shown
from benchmarks.machine import Neighbours
from benchmarks.rounds import Ratio, rendered, spread
from benchmarks.rows import CONTESTANTS, RATIOS
from benchmarks.table import markdown
from benchmarks.turbojpeg3 import Decoder
from tests.conftest import ENVIRONMENT, REPO
from tests.images import make_folder

SCRIPTS = ("compare", "scaling", "decoders", "photos")
PROGRAMS = sorted({f"contestants.{c.program}" for c in CONTESTANTS.values()})

ranks = st.integers(1, 512)
sizes = st.floats(1e3, 1e9)
rates = st.floats(1e6, 1e12)
latencies = st.floats(0, 1e-2)
clusters = st.builds(Cluster, st.integers(1, 16), rates, latencies, rates, latencies)
costs = st.builds(Cost, *([st.floats(1e-6, 1e-2)] * 2), *([st.floats(1e7, 1e11)] * 2))
WAYS = (collective.flat_s, collective.hierarchical_s)


def run(*words):
    return subprocess.run(
        [sys.executable, *words],
        cwd=REPO,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=90,
    )


# What an allreduce costs ---------------------------------------------------------------------


@given(clusters, sizes)
def test_one_gpu_reduces_for_nothing(cluster, num_bytes):
    for way in WAYS:
        assert way(1, num_bytes, cluster) == 0


@given(ranks, sizes, clusters, st.floats(1, 100))
def test_more_bandwidth_is_never_slower(num_gpus, num_bytes, cluster, factor):
    faster = cluster._replace(
        network_bytes_s=factor * cluster.network_bytes_s,
        intra_bytes_s=factor * cluster.intra_bytes_s,
    )
    for way in WAYS:
        assert way(num_gpus, num_bytes, faster) <= way(num_gpus, num_bytes, cluster)


@given(ranks, sizes, clusters)
def test_more_latency_or_more_bytes_are_never_quicker(num_gpus, num_bytes, cluster):
    slower = cluster._replace(network_latency_s=cluster.network_latency_s + 1e-4)
    for way in WAYS:
        assert way(num_gpus, num_bytes, slower) >= way(num_gpus, num_bytes, cluster)
        assert way(num_gpus, 2 * num_bytes, cluster) >= way(num_gpus, num_bytes, cluster)


@given(st.integers(1, 16), sizes, clusters)
def test_within_a_host_both_ways_are_one(num_gpus, num_bytes, cluster):
    cluster = cluster._replace(gpus_a_host=16)
    assert WAYS[0](num_gpus, num_bytes, cluster) == WAYS[1](num_gpus, num_bytes, cluster)


def test_a_ring_moves_nearly_twice_the_bytes_over_each_link():
    assert collective.ring_s(2, 1e9, 0, 1e9) == pytest.approx(1)
    assert collective.ring_s(1000, 1e9, 0, 1e9) == pytest.approx(1.998)
    assert collective.ring_s(4, 0, 0.5, 1e9) == 3


@given(st.floats(1e-4, 10), st.floats(0, 100), st.floats(0, 1))
def test_efficiency_lies_between_nothing_and_one_and_overlap_never_harms(step_s, reduce_s, share):
    plain = collective.efficiency(step_s, reduce_s, 0)
    assert 0 < plain <= collective.efficiency(step_s, reduce_s, share) <= 1
    assert collective.efficiency(step_s, 0, share) == 1


def test_a_reduction_as_long_as_the_step_halves_the_speed():
    assert collective.efficiency(0.1, 0.1, 0) == 0.5


@given(costs)
def test_the_fit_finds_the_cost_that_samples_were_made_from(cost):
    samples = [
        Sample(num, num_bytes, cost.of(num, num_bytes))
        for num in (1, 2, 4)
        for num_bytes in (2**10, 2**16, 2**20, 2**26)
    ]
    found = collective.fit(samples)
    for sample in samples:
        assert found.of(*sample[:2]) == pytest.approx(sample.elapsed_s, rel=1e-3)
    assert found.of(4, 2**23) == pytest.approx(cost.of(4, 2**23), rel=1e-2)


@given(st.lists(st.builds(Sample, ranks, st.integers(1, 2**28), st.floats(1e-6, 10)), min_size=1))
def test_no_term_of_a_fit_is_negative(samples):
    cost = collective.fit(samples)
    assert all(term >= 0 for term in cost)
    assert math.isfinite(cost.of(8, 2**20))


def test_a_fit_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no allreduce"):
        collective.fit([])


# What was published --------------------------------------------------------------------------


def test_horovods_efficiencies_are_those_that_it_is_quoted_for():
    assert published.horovod_efficiency(32, hierarchical=False) == pytest.approx(0.98, abs=0.005)
    assert published.horovod_efficiency(256, hierarchical=False) == pytest.approx(0.66, abs=0.005)
    assert published.horovod_efficiency(256, hierarchical=True) == pytest.approx(0.91, abs=0.005)
    assert published.horovod_efficiency(512, hierarchical=True) is None


def test_nvidias_efficiencies_are_those_that_it_is_quoted_for():
    assert published.nvidia_efficiency(4) == pytest.approx((0.959, 0.987), abs=0.0005)
    assert published.nvidia_efficiency(8) == pytest.approx((0.952, 0.979), abs=0.0005)
    assert published.nvidia_efficiency(1) is published.nvidia_efficiency(32) is None


# Ratios and tables ---------------------------------------------------------------------------

told = st.builds(
    lambda images, elapsed_s, peak_mb: {
        "images": images,
        "elapsed_s": elapsed_s,
        "peak_mb": peak_mb,
        "others": 0.0,
    },
    *(st.integers(1, 10**6), st.floats(1e-3, 1e4), st.floats(1, 1e5)),
)


@given(st.lists(told, min_size=1, max_size=5))
def test_a_contestant_is_as_fast_as_itself(tolds):
    assert Ratio("", "a", "a", "").in_rounds({"a": tolds}) == [1] * len(tolds)


@given(st.lists(st.tuples(told, told), min_size=1, max_size=5))
def test_a_ratio_of_two_is_the_inverse_of_that_of_the_others(pairs):
    rounds = dict(zip("ab", zip(*pairs)))
    there, back = (Ratio("", *names, "").in_rounds(rounds) for names in ("ab", "ba"))
    np.testing.assert_allclose(np.multiply(there, back), 1)


def test_two_ranks_are_compared_with_twice_one_and_memory_with_its_bound():
    rounds = {
        "one": [{"images": 10, "elapsed_s": 1.0, "peak_mb": 900}],
        "two": [{"images": 19, "elapsed_s": 1.0, "peak_mb": 964}],
    }
    assert Ratio("", "two", "one", "", times=2).in_rounds(rounds) == [0.95]
    assert Ratio("", "two", "one", "", "peak_mb", plus=64).in_rounds(rounds) == [1]
    assert Ratio("", "two", "three", "").in_rounds(rounds) == []


def test_spread_is_median_least_and_largest():
    assert spread([3, 1, 2]) == (2, 1, 3)


def test_every_ratio_is_of_contestants_that_there_are():
    for ratio in RATIOS:
        assert {ratio.of, ratio.over} <= CONTESTANTS.keys()
    assert len({ratio.name for ratio in RATIOS}) == len(RATIOS)


def test_tables_show_who_ran_and_only_the_ratios_that_there_are():
    row = {"images": 30, "elapsed_s": 2.0, "peak_mb": 100.0, "others": 0.25}
    rounds = {"loader, dist_ft": [row], "loader, original": [{**row, "images": 5}], "left": []}
    text = rendered(rounds, RATIOS)
    assert "15.0" in text and "6.000" in text and "25%" in text
    assert "left" not in text and "PyTorch" not in text


@given(st.lists(st.lists(st.text("ab |", max_size=9), min_size=3, max_size=3), max_size=4))
def test_the_lines_of_a_table_are_equally_long(rows):
    lines = markdown(("one", "", "three"), rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert len(set(map(len, lines))) == 1


def test_results_are_shown_with_their_machine_and_with_who_was_left_out():
    text = shown(
        {
            "machine": "an abacus",
            "data": "no images",
            "batch_size": 32,
            "rounds": {"a": [{"images": 1, "elapsed_s": 1.0, "peak_mb": 1.0, "others": 0.0}]},
            "left": {"b": "out of beads"},
        }
    )
    assert "an abacus" in text and "left out: b: out of beads" in text


# The programs --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SCRIPTS, *PROGRAMS, "contestants.allreduce"])
def test_help_is_answered(name):
    ended = run("-m", f"benchmarks.{name}", "--help")
    assert ended.returncode == 0, ended.stderr
    assert "usage:" in ended.stdout


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
def test_a_contestant_whose_package_is_missing_is_left_out(tmp_path):
    data = make_folder(tmp_path / "data", train=(1, 1), test=(1, 1))
    results = tmp_path / "results.json"
    words = ["--only", "PyTorch float32", "--data", str(data), "--json", str(results)]
    ended = run("-m", "benchmarks.compare", *words)
    assert ended.returncode == 0, ended.stderr
    assert (
        "No module named 'torch'"
        in json.loads(results.read_text())["left"]["train, PyTorch float32"]
    )


def test_a_contestant_that_fails_is_left_out_and_the_status_says_so(tmp_path):
    data = make_folder(tmp_path / "data", train=(1, 1), test=(1, 1))
    (data / "test").rename(data / "elsewhere")
    (data / "test" / "unknown").mkdir(parents=True)
    os.link(next((data / "elsewhere").glob("*/*")), data / "test" / "unknown" / "image.jpg")
    words = ["--only", "^loader, dist_ft$", "--data", str(data), "--rounds", "1"]
    ended = run("-m", "benchmarks.compare", *words)
    assert ended.returncode == 1, ended.stderr
    assert "left out: loader, dist_ft: status 1: dist_ft: " in ended.stderr


@pytest.mark.parametrize(
    "words", [["--rounds", "0"], ["--steps", "-1"], ["--batch-size", "x"], ["--only", "("]]
)
def test_unusable_flags_are_refused(words):
    with pytest.raises(SystemExit):
        parse(words)


def test_ones_own_children_are_no_neighbours():
    with Neighbours() as others:
        run("-c", "sum(range(3 * 10**7))")
    assert 0 <= others.share <= 1.1  # of all that there is; the system counts hundredths


# The images ----------------------------------------------------------------------------------


def test_mosaics_have_the_size_of_photographs_and_are_the_same_for_the_same_seed(tmp_path):
    source = make_folder(tmp_path / "source", train=(2, 3), test=(2, 2))
    for name in ("a", "b"):
        photos.tile(source, tmp_path / name, num_train=3, num_test=2)
    assert "3 to train on and 2 to test on" in photos.described(tmp_path / "a")
    assert "512 x 399 px" in photos.described(tmp_path / "a")
    for path in (tmp_path / "a").glob("*/*/*"):
        assert path.stat().st_size <= photos.NUM_BYTES
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_a_region_of_a_jpeg_is_that_part_of_the_whole(tmp_path):
    try:
        decoder = Decoder()
    except OSError as error:
        pytest.skip(str(error))
    source = make_folder(tmp_path, train=(1, 1), test=(1, 1), side=100)
    data = next(source.glob("train/*/000.jpg")).read_bytes()
    whole = decoder.decode(data).copy()
    for left, top, width, height in ((0, 0, 100, 100), (17, 33, 1, 1), (40, 5, 60, 70)):
        part = whole[top : top + height, left : left + width]
        np.testing.assert_array_equal(decoder.decode(data, (left, top, width, height)), part)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs images as train/CLASS"):
        photos.described(tmp_path)
