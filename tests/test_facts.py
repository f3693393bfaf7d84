"""facts: what ranks and checkpoints are compared by, and how a difference is told."""

import json

import pytest

from dist_ft.config import FREE_ON_RESUME, Config
from dist_ft.data.image_folder import scan
from dist_ft.settings import flag_of
from dist_ft.training import run_spec
from tests.images import make_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("facts") / "data", [3, 2], [1, 1], side=8)
    return scan(str(root))


def of(folder, **values):
    return run_spec.of(Config(**values), folder)


def test_facts_survive_json(folder):
    found = of(folder, freeze=("a",), schedule="step", step_epochs=(1.5,), warmup_epochs=0.1)
    assert json.loads(json.dumps(found)) == found
    assert run_spec.since_checkpoint(json.loads(json.dumps(found)), found) == []


def test_facts_name_settings_data_and_versions(folder):
    found = of(folder)
    assert found["--lr"] == 0.01
    assert found["classes"] == ["class_a", "class_b"]
    assert found["train images"].startswith("5 of fingerprint ")
    assert {"version of mxnet", "version of numpy", "version of Python"} <= set(found)


def test_ranks_that_are_alike_have_no_differences(folder):
    same = [of(folder) for _ in range(3)]
    assert run_spec.between_ranks(same, ["zero", "one", "two"]) == []


def test_ranks_may_have_paths_of_their_own(folder):
    here, there = (of(folder, data=p, out=p, weights=p) for p in ("/here", "/there"))
    assert run_spec.between_ranks([here, there], ["zero", "one"]) == []


def test_each_difference_names_the_rank_the_thing_and_both_values(folder):
    everyones = [of(folder), of(folder), of(folder, lr=0.5, model="resnet18_v2")]
    everyones[1]["version of numpy"] = "1.2.3"
    told = run_spec.between_ranks(everyones, ["rank 0", "rank 1 on a", "rank 2 on b"])
    assert told == [
        f"rank 1 on a differs from rank 0 in version of numpy: 1.2.3 instead of"
        f" {everyones[0]['version of numpy']}",
        "rank 2 on b differs from rank 0 in --lr: 0.5 instead of 0.01",
        "rank 2 on b differs from rank 0 in --model: resnet18_v2 instead of resnet34_v2",
    ]


def test_another_file_on_one_rank_is_a_difference(folder, tmp_path):
    other = scan(str(make_folder(tmp_path / "data", [3, 3], [1, 1], side=8)))
    (line,) = run_spec.between_ranks([of(folder), of(other)], ["rank 0", "rank 1"])
    assert line.startswith("rank 1 differs from rank 0 in train images: 6 of fingerprint ")


OTHER = {
    "data": "else",
    "num_workers": 3,
    "prefetch_mb": 9.0,
    "cache_dir": "elsewhere",
    "max_bad_share": 0.5,
    "allow_leak": True,
    "weights": "none",
    "epochs": 30,
    "max_steps": 5,
    "patience": 2,
    "device": "cpu",
    "num_groups": 2,
    "fusion_mb": 8,
    "cycle_ms": 2.0,
    "hierarchical_allreduce": True,
    "autotune": True,
    "horovod_timeline": "there.json",
    "elastic": True,
    "commit_every": 3,
    "stall_timeout": 9.0,
    "check_every": 4,
    "out": "there",
    "resume": "never",
    "keep": 9,
    "save_every": 3,
    "log_every": 1,
    "board_every": 3,
    "histograms": True,
}


@pytest.mark.parametrize("name", sorted(FREE_ON_RESUME))
def test_a_run_may_go_on_with_another(folder, name):
    assert run_spec.since_checkpoint(of(folder), of(folder, **{name: OTHER[name]})) == []


@pytest.mark.parametrize(
    "name, value",
    [
        *(("lr", 0.02), ("batch_size", 100), ("seed", 1), ("optimizer", "adam"), ("wd", 0.0)),
        *(("image_size", 64), ("freeze", ("a",)), ("schedule", "cosine"), ("scale_batch", True)),
    ],
)
def test_a_run_does_not_go_on_as_another_run(folder, name, value):
    (line,) = run_spec.since_checkpoint(of(folder), of(folder, **{name: value}))
    assert line.startswith(f"{flag_of(name)}: ")
    assert " instead of " in line


@pytest.mark.parametrize("schedule", ["cosine", "poly"])
def test_the_epochs_stay_where_the_rate_ends_with_them(folder, schedule):
    before, now = (of(folder, schedule=schedule, epochs=epochs) for epochs in (10, 12))
    assert run_spec.since_checkpoint(before, now) == ["--epochs: 12 instead of 10"]


@pytest.mark.parametrize("warmup, differs", [(None, True), (2.0, False)])
def test_the_epochs_stay_where_the_warm_up_is_of_them(folder, warmup, differs):
    settings = {"scale_batch": True, "warmup_epochs": warmup}
    before, now = (of(folder, epochs=epochs, **settings) for epochs in (3, 10))
    told = ["--epochs: 10 instead of 3"] if differs else []
    assert run_spec.since_checkpoint(before, now) == told


def test_versions_and_test_images_may_change_and_training_images_may_not(folder):
    saved, now = of(folder), of(folder)
    saved["version of mxnet"], saved["test images"] = "1.0", "0 of fingerprint none"
    assert run_spec.since_checkpoint(saved, now) == []
    saved["train images"] = "4 of fingerprint none"
    (line,) = run_spec.since_checkpoint(saved, now)
    assert line.startswith("train images: 5 of") and line.endswith(
        "instead of 4 of fingerprint none"
    )


def test_a_setting_that_an_older_version_lacked_is_a_difference(folder):
    saved = of(folder)
    del saved["--clip-norm"]
    assert run_spec.since_checkpoint(saved, of(folder)) == ["--clip-norm: 0.0 instead of None"]
