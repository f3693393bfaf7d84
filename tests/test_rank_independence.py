"""Every recipe gives the same run for any number of ranks, and when it is stopped and resumed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dist_ft.distributed.world import World
from dist_ft.training import checkpoint
from tests.conftest import run_job
from tests.images import make_folder
from tests.runs import arrays_of, rows_of
from tests.workers import recipes
from tests.workers.recipes import RECIPES

pytestmark = [pytest.mark.jobs, pytest.mark.usefixtures("no_figures")]

NUM_TRAIN, BATCH_SIZE = 53, 12
EPS = float(np.finfo(np.float32).eps)
# Each update adds a sum over the images of a step, which the ranks and --micro-batch group
# differently: a relative error of one EPS per term. Parameters and updates are smaller than 1.
TOLERANCE = math.ceil(NUM_TRAIN / BATCH_SIZE) * BATCH_SIZE * EPS
assert TOLERANCE < 1e-5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Classes of different sizes; one image is unreadable."""
    root = make_folder(tmp_path_factory.mktemp("recipes") / "data", (22, 3, 12, 10, 6), (4,) * 5)
    (root / "train/class_b/001.jpg").write_bytes(b"not an image")
    return root


@pytest.fixture(scope="module")
def single(data, no_figures, tmp_path_factory):
    """The folder of a single process's runs."""
    out = tmp_path_factory.mktemp("single")
    world = World("cpu", stall_timeout_s=300)
    recipes.train_all(world, str(data), out)
    world.close()
    return out


@pytest.fixture(scope="module", params=[(2, 0), (4, 3)], ids=["2 ranks", "4 ranks, resumed"])
def job(request, data, tmp_path_factory):
    num_ranks, max_steps = request.param
    out = tmp_path_factory.mktemp(f"{num_ranks}_ranks")
    words = ["tests/workers/recipes.py", str(out), str(data), str(max_steps)]
    ended = run_job(words, 400, num_ranks)
    assert ended.status == 0, ended.output
    return out


def parameters(run):
    return {k: v.asnumpy() for k, v in checkpoint.latest(run).net_arrays().items()}


def largest_difference(run, other):
    one, two = parameters(run), parameters(other)
    assert one.keys() == two.keys()
    return max(abs(one[name] - two[name]).max() for name in one)


@pytest.mark.parametrize("name", RECIPES)
def test_any_number_of_ranks_gives_the_parameters_and_scores_of_one(single, job, name):
    assert largest_difference(job / name, single / name) <= TOLERANCE
    row, expected = rows_of(job / name)[-1], rows_of(single / name)[-1]
    assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=NUM_TRAIN * EPS)
    assert row["train_accuracy"] == expected["train_accuracy"]
    assert row["confusion"] == expected["confusion"]


def test_a_resumed_run_ends_with_the_same_bytes(single, data, tmp_path):
    world = World("cpu", stall_timeout_s=300)
    recipes.train_all(world, str(data), tmp_path, max_steps=2)
    world.close()
    for name in RECIPES:
        assert arrays_of(tmp_path / name) == arrays_of(single / name), name


def test_micro_batches_change_nothing_but_rounding(single):
    assert largest_difference(single / "accumulated", single / "plain") <= TOLERANCE
    accumulated, clipped = single / "clipped_and_accumulated", single / "clipped"
    assert largest_difference(accumulated, clipped) <= TOLERANCE


def test_every_other_recipe_changes_the_run(single):
    kinds = {name: parameters(single / name) for name in RECIPES}
    names = [name for name in RECIPES if "accumulated" not in name and "head" not in name]
    for number, name in enumerate(names):
        for other in names[:number]:
            assert any(abs(kinds[name][k] - kinds[other][k]).max() > 1e-3 for k in kinds[name])
