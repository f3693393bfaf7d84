"""training.run_spec: how ranks and checkpoints are compared."""

import json

import pytest

from dist_ft.config import Config
from dist_ft.data.image_folder import scan
from dist_ft.settings import flag_of
from dist_ft.training import run_spec
from dist_ft.training.run_spec import rank_differences, resume_differences
from tests.images import make_folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("run_spec") / "data", [3, 2], [1, 1], side=8)
    return scan(str(root))


@pytest.fixture
def spec_of(dataset):
    def build(**settings):
        return run_spec.describe(Config(**settings).as_dict(), dataset)

    return build


def test_a_spec_survives_json(spec_of):
    spec = spec_of(freeze=("a",), schedule="step", step_epochs=(1.5,), warmup_epochs=0.1)
    assert json.loads(json.dumps(spec)) == spec


def test_a_spec_has_settings_data_and_versions(spec_of):
    spec = spec_of()
    assert spec["--lr"] == 0.01
    assert spec["classes"] == ["class_a", "class_b"]
    assert spec["train images"].startswith("5 of fingerprint ")
    assert {"version of mxnet", "version of numpy", "version of Python"} <= set(spec)


def test_ranks_may_differ_in_paths_only(spec_of):
    here, there = (spec_of(data=p, out=p, weights=p, cache_dir=p) for p in ("/here", "/there"))
    assert rank_differences([here, there], ["zero", "one"]) == []


def test_each_difference_names_the_rank_the_entry_and_both_values(spec_of):
    specs = [spec_of(), spec_of(), spec_of(lr=0.5, model="resnet18_v2")]
    specs[1]["version of numpy"] = "1.2.3"
    assert rank_differences(specs, ["rank 0", "rank 1 on a", "rank 2 on b"]) == [
        f"rank 1 on a differs from rank 0 in version of numpy: 1.2.3 instead of"
        f" {specs[0]['version of numpy']}",
        "rank 2 on b differs from rank 0 in --lr: 0.5 instead of 0.01",
        "rank 2 on b differs from rank 0 in --model: resnet18_v2 instead of resnet34_v2",
    ]


def test_another_image_on_one_rank_is_a_difference(spec_of, tmp_path):
    other = scan(str(make_folder(tmp_path / "data", [3, 3], [1, 1], side=8)))
    specs = [spec_of(), run_spec.describe(Config().as_dict(), other)]
    assert any(
        line.startswith("rank 1 differs from rank 0 in train images: 6 of fingerprint ")
        for line in rank_differences(specs, ["rank 0", "rank 1"])
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 30, "max_steps": 5, "patience": 2},
        {"data": "else", "num_workers": 3, "weights": "none", "device": "cpu", "out": "there"},
        {"keep": 9, "save_every": 3, "log_every": 1, "check_every": 4, "elastic": True},
    ],
)
def test_settings_that_do_not_affect_a_step_may_change_on_resume(spec_of, settings):
    assert resume_differences(spec_of(), spec_of(**settings)) == []


@pytest.mark.parametrize(
    "name, value",
    [
        ("lr", 0.02),
        ("batch_size", 100),
        ("seed", 1),
        ("optimizer", "adam"),
        ("image_size", 64),
        ("freeze", ("a",)),
        ("schedule", "cosine"),
        ("scale_batch", True),
    ],
)
def test_other_settings_may_not(spec_of, name, value):
    (line,) = resume_differences(spec_of(), spec_of(**{name: value}))
    assert line.startswith(f"{flag_of(name)}: ")
    assert " instead of " in line


@pytest.mark.parametrize("schedule", ["cosine", "poly"])
def test_epochs_may_not_change_if_the_learning_rate_depends_on_them(spec_of, schedule):
    saved, current = (spec_of(schedule=schedule, epochs=epochs) for epochs in (10, 12))
    assert resume_differences(saved, current) == ["--epochs: 12 instead of 10"]


@pytest.mark.parametrize("warmup_epochs, may_change", [(None, False), (2.0, True)])
def test_epochs_may_not_change_if_the_warm_up_depends_on_them(spec_of, warmup_epochs, may_change):
    settings = {"scale_batch": True, "warmup_epochs": warmup_epochs}
    saved, current = (spec_of(epochs=epochs, **settings) for epochs in (3, 10))
    expected = [] if may_change else ["--epochs: 10 instead of 3"]
    assert resume_differences(saved, current) == expected


def test_versions_and_test_images_may_change_but_training_images_may_not(spec_of):
    saved = spec_of()
    saved["version of mxnet"], saved["test images"] = "1.0", "0 of fingerprint none"
    assert resume_differences(saved, spec_of()) == []
    saved["train images"] = "4 of fingerprint none"
    (line,) = resume_differences(saved, spec_of())
    assert line.startswith("train images: 5 of")
    assert line.endswith("instead of 4 of fingerprint none")


def test_a_setting_that_an_older_version_lacked_had_its_default(spec_of):
    saved = spec_of()
    del saved["--clip-norm"]
    assert resume_differences(saved, spec_of()) == []
    differences = resume_differences(saved, spec_of(clip_norm=1.0))
    assert differences == ["--clip-norm: 1.0 instead of 0.0"]


def test_a_setting_that_no_longer_exists_is_ignored(spec_of):
    assert resume_differences({**spec_of(), "--removed": 3}, spec_of()) == []
