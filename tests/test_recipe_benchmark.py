"""The benchmark of the recipes: its images, runs and tables, and a brief run of each kind."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from benchmarks import recipe_data, recipe_runs, recipes
from benchmarks.contestants import gluon_to_npz
from benchmarks.recipe_data import FEW, RARE, WRONG, Image
from benchmarks.recipe_runs import PYTORCH, Comparison, all_groups, runs_of
from benchmarks.recipe_tables import as_markdown
from dist_ft.config import Config
from dist_ft.settings_file import read_recipe
from tests.conftest import ENVIRONMENT, REPO

TORCH_PYTHON = os.environ.get("DIST_FT_TORCH_PYTHON", sys.executable)
HAS_TORCH = "DIST_FT_TORCH_PYTHON" in os.environ or importlib.util.find_spec("torch") is not None
COUNTS = {"a": 40, "b": 100, "c": 7}
IMAGES = [Image(f"train/{name}/{k}.jpg", name) for name, n in COUNTS.items() for k in range(n)]


def counts(images):
    return dict(Counter(image.class_name for image in images))


@pytest.fixture(scope="module")
def lists(tiny, tmp_path_factory):
    return recipe_data.divide(tiny, tmp_path_factory.mktemp("cache"))


def test_a_share_of_the_images_of_each_class_is_kept():
    kept = recipe_data.reduced(IMAGES, ["a", "b", "c"], 0.1, seed=0)
    assert counts(kept) == {"a": 4, "b": 10, "c": 1}
    assert set(kept) < set(IMAGES)


def test_other_classes_keep_all_images():
    assert counts(recipe_data.reduced(IMAGES, ["b"], 0.05, seed=0)) == {**COUNTS, "b": 5}


def test_a_share_of_the_labels_of_each_class_is_wrong():
    changed = recipe_data.mislabeled(IMAGES, 0.2, seed=0)
    assert [image.path for image in changed] == [image.path for image in IMAGES]
    wrong = [a.class_name for a, b in zip(IMAGES, changed) if a.class_name != b.class_name]
    assert dict(Counter(wrong)) == {"a": 8, "b": 20, "c": 1}
    assert counts(changed).keys() == COUNTS.keys()


@pytest.mark.parametrize("kind", [FEW, WRONG, RARE])
def test_the_images_of_a_kind_depend_on_the_seed_only(lists, kind):
    assert lists.train_of(kind, 1) == lists.train_of(kind, 1)
    assert lists.train_of(kind, 1) != lists.train_of(kind, 2)


def test_validation_images_are_taken_from_train_and_are_in_no_list_of_it(lists, tiny):
    paths = {image.path for image in lists.val}
    assert paths
    assert all((tiny / image.path).is_file() for image in (*lists.val, *lists.train, *lists.test))
    for kind in recipe_data.KINDS:
        assert not paths & {image.path for image in lists.train_of(kind, 0)}
    assert len(lists.train) + len(lists.val) == 53 and len(lists.test) == 101


def test_names_of_runs_are_different():
    names = [run.name for run in runs_of(all_groups())]
    assert len(set(names)) == len(names)


def test_every_comparison_is_of_groups_and_every_group_is_compared():
    compared = {name for c in recipe_runs.comparisons() for name in c.group_names}
    assert compared == all_groups().keys()


def test_the_ablation_leaves_out_each_part_of_the_strong_recipe_once():
    strong, seen = read_recipe("strong"), []
    for keys in recipe_runs.parts_of_strong():
        left = all_groups()[recipe_runs.without(keys)].settings
        changed = {name for name in strong if left.get(name) != strong[name]}
        assert changed == set(keys)
        seen += keys
        Config(**left)
    assert sorted(seen) == sorted(strong)


def test_a_result_counts_only_for_the_same_settings():
    short, long = (runs_of(all_groups(), epochs=epochs)[0] for epochs in (1, 2))
    assert short.name == long.name and short.spec != long.spec
    assert json.loads(json.dumps(short.spec)) == short.spec


def result(group, seed, accuracy, is_candidate=False):
    scores = {"test_accuracy": accuracy, "val_accuracy": accuracy, "elapsed_s": 60.0}
    return {"group": group, "seed": seed, "is_candidate": is_candidate, **scores}


def test_a_table_shows_means_and_the_difference_for_the_seeds_that_both_have():
    results = {
        "1": result("a", 0, 0.7),
        "2": result("a", 1, 0.9),
        "3": result("b", 1, 0.95),
        "4": result("c", 0, 0.2),
    }
    comparisons = [Comparison("x", "test_accuracy", ["a", "b"])]
    text = as_markdown(results, comparisons)
    a, b = ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:])
    assert a == ["a", "0.800", "0.700", "0.900", "2", "", "0.800", "60"]
    assert b == ["b", "0.950", "0.950", "0.950", "1", "+5.0 points", "0.950", "60"]


def test_candidates_are_shown_by_validation_accuracy_and_nowhere_else():
    results = {str(k): result(f"candidate {k}", 0, k / 10, is_candidate=True) for k in (3, 5, 4)}
    results["a"] = result("a", 0, 0.6)
    text = as_markdown(results, [Comparison("x", "test_accuracy", ["a"])])
    assert [line.split()[2] for line in text.splitlines() if "candidate" in line] == ["5", "4", "3"]


def test_each_machine_is_named_with_the_number_of_its_runs():
    runs = {str(k): {**result("a", k, 0.5), "machine": f"m{k // 2}"} for k in range(3)}
    lines = recipes.format_results({"inputs": "", "runs": runs}).splitlines()
    assert lines[:2] == ["m0: 2 of 3 runs.", "m1: 1 of 3 runs."]


def test_parameters_of_gluon_have_their_names_in_pytorch():
    names = {
        "features.1.weight": "1.weight",
        "features.2.gamma": "2.weight",
        "features.5.0.bn1.beta": "5.bn1.bias",
        "features.6.3.conv2.weight": "11.conv2.weight",
        "features.8.2.bn2.running_var": "20.bn2.running_var",
        "features.8.0.downsample.weight": "18.downsample.weight",
        "features.9.running_mean": "21.running_mean",
        "output.bias": "25.bias",
    }
    assert {path: gluon_to_npz.torch_name(path) for path in names} == names


def run(*arguments, timeout_s=240):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.recipes", *map(str, arguments)],
        cwd=REPO,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def brief(tiny, tmp_path, weights="none"):
    return [
        *("--data", tiny, "--weights", weights, "--image-size", "32", "--steps", "1"),
        *("--epochs", "1", "--json", tmp_path / "results.json", "--torch-python", TORCH_PYTHON),
    ]


ONE_OF_EACH_KIND = (
    "^(strong, 8 epochs|speed, strong|strong, one class of 5 %, balance|strong, 2 ranks),"
    " (seed|round) 0$"
)


@pytest.mark.benchmarks
def test_runs_are_made_once_and_shown_again(tiny, tmp_path):
    flags = [*brief(tiny, tmp_path), "--model", "mobilenet0.25", "--only", ONE_OF_EACH_KIND]
    made = run(*flags)
    assert made.returncode == 0, made.stderr
    file = tmp_path / "results.json"
    results = json.loads(file.read_text())["runs"]
    assert len(results) == 4
    strong = results["strong, 8 epochs, seed 0"]
    assert sum(map(sum, strong["confusion"])) == 101
    correct = sum(row[k] for k, row in enumerate(strong["confusion"]))
    assert strong["test_accuracy"] == correct / 101
    assert 0 <= results["strong, one class of 5 %, balance, seed 0"]["rare_recall"] <= 1
    assert results["speed, strong, round 0"]["images_per_s"] > 0
    assert not list((tmp_path / "results.files" / "runs").iterdir())
    again = run(*flags)
    assert "4 of 4 runs are finished" in again.stderr
    assert json.loads(file.read_text())["runs"] == results
    assert run("--show", file).stdout == again.stdout == made.stdout
    other = run(*flags, "--data", tiny.parent)
    assert other.returncode != 0


@pytest.mark.benchmarks
def test_candidates_never_see_the_test_images(tiny, tmp_path):
    (tmp_path / "fast.yaml").write_text("recipe: strong\nlr: 0.02\n")
    flags = [*brief(tiny, tmp_path), "--model", "mobilenet0.25", "--on", "few"]
    made = run(*flags, "--tune", tmp_path / "fast.yaml")
    assert made.returncode == 0, made.stderr
    (found,) = json.loads((tmp_path / "results.json").read_text())["runs"].values()
    assert found["spec"]["settings"]["lr"] == 0.02
    assert found["spec"]["settings"]["momentum"] == read_recipe("strong")["momentum"]
    assert "confusion" not in found and "test_accuracy" not in found
    assert 0 <= found["val_accuracy"] <= 1
    assert "candidate fast, few" in made.stdout


@pytest.mark.benchmarks
@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed (DIST_FT_TORCH_PYTHON)")
def test_pytorch_trains_the_same_network_from_the_same_weights(tiny, tmp_path):
    weights = tmp_path / "resnet34_v2.params"
    save_resnet(weights)
    flags = [*brief(tiny, tmp_path, weights), "--only", "^PyTorch, reference, seed 0$"]
    made = run(*flags)
    assert made.returncode == 0, made.stderr
    (found,) = json.loads((tmp_path / "results.json").read_text())["runs"].values()
    assert found["spec"]["program"] == PYTORCH
    assert sum(map(sum, found["confusion"])) == 101


def save_resnet(path):
    """With statistics of BatchNorm that differ from the initial ones, as those of pretraining."""
    import mxnet as mx
    from mxnet import autograd
    from mxnet.gluon.model_zoo import vision

    net = vision.get_model("resnet34_v2", classes=7)
    net.initialize(mx.init.Xavier())
    with autograd.record():
        net(mx.nd.random.normal(1, 2, (8, 3, 32, 32)))
    net.save_parameters(str(path))
