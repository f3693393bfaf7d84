"""training.run_spec: how ranks and checkpoints are compared."""

import json

import pytest

from dist_ft.config import Config
from dist_ft.data.image_folder import scan
from dist_ft.training import run_spec
from dist_ft.training.run_spec import rank_differences, resume_differences
from tests.images import make_folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("run_spec") / "data", [3, 2], [1, 1], side=8)
    return scan(str(root))


@pytest.fixture
def spec_of(dataset):
    return lambda **settings: run_spec.describe(Config(**settings).as_dict(), dataset)


def test_a_spec_has_settings_data_and_versions_and_survives_json(spec_of):
    spec = spec_of(freeze=("a",), schedule="step", step_epochs=(1.5,), warmup_epochs=0.1)
    assert json.loads(json.dumps(spec)) == spec
    assert spec["--lr"] == 0.01
    assert spec["classes"] == ["class_a", "class_b"]
    assert spec["train images"].startswith("5 of fingerprint ")
    assert {"version of mxnet", "version of numpy", "version of Python"} <= set(spec)


def test_ranks_may_differ_in_paths_only(spec_of):
    here, there = (spec_of(data=p, out=p, weights=p, cache_dir=p) for p in ("/here", "/there"))
    assert rank_differences([here, there], ["zero", "one"]) == []


def test_each_difference_names_the_rank_the_entry_and_both_values(spec_of, tmp_path):
    other = scan(str(make_folder(tmp_path / "data", [3, 3], [1, 1], side=8)))
    specs = [spec_of(), spec_of(), spec_of(lr=0.5), run_spec.describe(Config().as_dict(), other)]
    version, specs[1]["version of numpy"] = specs[1]["version of numpy"], "1.2.3"
    differences = rank_differences(specs, ["rank 0", "rank 1 on a", "rank 2 on b", "rank 3 on b"])
    assert differences[:2] == [
        f"rank 1 on a differs from rank 0 in version of numpy: 1.2.3 instead of {version}",
        "rank 2 on b differs from rank 0 in --lr: 0.5 instead of 0.01",
    ]
    expected = "rank 3 on b differs from rank 0 in train images: 6 of fingerprint "
    assert any(difference.startswith(expected) for difference in differences[2:])


def changed(name, old, new, **settings):
    """Settings of a saved run, settings of the resumed one."""
    return {name: old, **settings}, {name: new, **settings}


@pytest.mark.parametrize(
    "saved, current",
    [
        ({}, {"epochs": 30, "max_steps": 5, "patience": 2}),
        ({}, {"data": "else", "num_workers": 3, "weights": "none", "device": "cpu", "out": "x"}),
        ({}, {"keep": 9, "save_every": 3, "log_every": 1, "check_every": 4, "elastic": True}),
        changed("epochs", 3, 10, scale_batch=True, warmup_epochs=2.0),
    ],
)
def test_settings_that_do_not_affect_a_step_may_change_on_resume(spec_of, saved, current):
    assert resume_differences(spec_of(**saved), spec_of(**current)) == []


@pytest.mark.parametrize(
    "saved, current, difference",
    [
        ({}, {"lr": 0.02}, "--lr: 0.02 instead of 0.01"),
        ({}, {"batch_size": 100}, "--batch-size: 100 instead of 200"),
        ({}, {"seed": 1}, "--seed: 1 instead of 0"),
        ({}, {"optimizer": "adam"}, "--optimizer: adam instead of sgd"),
        ({}, {"image_size": 64}, "--image-size: 64 instead of 224"),
        ({}, {"freeze": ("a",)}, "--freeze: ['a'] instead of []"),
        ({}, {"schedule": "cosine"}, "--schedule: cosine instead of constant"),
        ({}, {"scale_batch": True}, "--scale-batch: True instead of False"),
        # The learning rate depends on the number of epochs, and so does the default warm-up.
        (*changed("epochs", 10, 12, schedule="cosine"), "--epochs: 12 instead of 10"),
        (*changed("epochs", 10, 12, schedule="poly"), "--epochs: 12 instead of 10"),
        (*changed("epochs", 3, 10, scale_batch=True), "--epochs: 10 instead of 3"),
    ],
)
def test_other_settings_may_not(spec_of, saved, current, difference):
    assert resume_differences(spec_of(**saved), spec_of(**current)) == [difference]


def test_versions_and_test_images_may_change_but_training_images_may_not(spec_of):
    saved = {**spec_of(), "version of mxnet": "1.0", "test images": "none", "--removed": 3}
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
