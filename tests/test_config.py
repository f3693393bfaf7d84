"""Settings are checked for type, bounds and conflicts, and all problems are reported at once."""

import json
import math
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ft.config import FREE_ON_RESUME, GROUPS, Config
from dist_ft.settings import ConfigError, flag_of

FIELDS = {f.name: f for f in fields(Config)}
NUMBERS = [f for f in fields(Config) if f.metadata["low"] is not None]
WORDS = [f for f in fields(Config) if f.metadata["choices"]]
# Other settings that a setting requires.
REQUIRED = {
    "step_epochs": {"schedule": "step"},
    "resize": {"image_size": 8},
}


def problems(**values):
    with pytest.raises(ConfigError) as caught:
        Config(**values)
    return str(caught.value).splitlines()


def settings_with(field, value):
    """Valid settings in which a field has this value, or a tuple of it."""
    value = (value,) if field.type.startswith("tuple") else value
    required = {"step_epochs": (1.0,)} if value == "step" else REQUIRED.get(field.name, {})
    return {**required, field.name: value}


def test_the_defaults_are_the_original_recipe():
    config = Config()
    assert (config.model, config.optimizer, config.lr, config.momentum, config.wd) == (
        *("resnet34_v2", "sgd", 0.01, 0.0, 0.001),
    )
    assert (config.batch_size, config.epochs, config.image_size) == (200, 20, 224)
    assert (config.resize_px, config.keep_ratio) == (256, False)


@pytest.mark.parametrize("field", NUMBERS, ids=lambda f: f.name)
def test_a_number_may_equal_its_bounds_but_not_exceed_them(field):
    low, high = field.metadata["low"], field.metadata["high"]
    Config(**settings_with(field, low))
    below = low - 1 if field.type == "int" else float(np.nextafter(low, -1))
    outside = [below, -(10**400) if field.type == "int" else -math.inf]
    if high < math.inf:
        Config(**settings_with(field, high))
        outside.append(high + 1 if field.type == "int" else float(np.nextafter(high, high + 1)))
    if "float" in field.type:
        outside += [math.nan, math.inf]
    for value in outside:
        assert problems(**settings_with(field, value))[0].startswith(
            f"{flag_of(field.name)} {value}: must"
        )


@pytest.mark.parametrize("field", WORDS, ids=lambda f: f.name)
def test_a_setting_with_choices_accepts_only_those(field):
    for choice in field.metadata["choices"]:
        assert getattr(Config(**settings_with(field, choice)), field.name) == choice
    (line,) = [x for x in problems(**{field.name: "Nonsense"}) if "Nonsense" in x]
    assert line.startswith(f"{flag_of(field.name)} Nonsense: choose one of ")
    assert all(choice in line for choice in field.metadata["choices"])


@pytest.mark.parametrize("field", FIELDS.values(), ids=lambda f: f.name)
def test_a_value_of_another_type_is_rejected(field):
    wrong = [[1], {"a": 1}, object(), b"x"]
    wrong += [] if field.type == "str" else ["word"]
    wrong += [] if field.type in ("int", "float", "float | None") else [3]
    wrong += [] if field.type == "bool" else [True]
    wrong += [] if field.type in ("float", "float | None") else [1.5]
    wrong += [] if field.type == "float | None" else [None]
    for value in wrong:
        (line,) = problems(**{field.name: value})
        assert line == f"{flag_of(field.name)} {value!r}: must be of type {field.type}"


def test_all_problems_are_reported_at_once():
    message = problems(
        batch_size=0, lr=-1.0, bn="often", freeze=("(",), momentum=0.9, optimizer="adam"
    )
    assert [line.split()[0] for line in message] == [
        *("--batch-size", "--bn", "--lr", "--momentum", "--freeze"),
    ]


@pytest.mark.parametrize(
    "values, words",
    [
        ({"resize": 200}, "--resize 200: must be at least --image-size 224"),
        ({"momentum": 0.9, "optimizer": "rmsprop"}, "--momentum 0.9: rmsprop has none"),
        ({"warmup_epochs": 21.0}, "--warmup-epochs 21.0: must be at most --epochs 20"),
        ({"schedule": "step"}, "--step-epochs and --schedule step need each other"),
        ({"step_epochs": (3.0,)}, "--step-epochs and --schedule step need each other"),
        ({"elastic": True, "num_groups": 4}, "--elastic --num-groups 4: all gradients are one"),
        ({"freeze": ("conv[",)}, "--freeze conv[: not a regular expression"),
        ({"lr_mult": ("conv[=2",)}, "--lr-mult conv[: not a regular expression"),
        ({"lr_mult": ("conv",)}, "--lr-mult conv: must be PATTERN=X"),
        ({"lr_mult": ("=2",)}, "--lr-mult =2: must be PATTERN=X"),
        ({"lr_mult": ("conv=-1",)}, "--lr-mult conv=-1: must be PATTERN=X"),
        ({"lr_mult": ("conv=nan",)}, "--lr-mult conv=nan: must be PATTERN=X"),
    ],
)
def test_conflicting_settings_are_rejected(values, words):
    assert problems(**values)[0].startswith(words)


def test_a_multiplier_may_be_any_number_and_its_pattern_may_contain_an_equals_sign():
    for number in ("0", "1", "2.", "2.5", ".5", "1e-3", "2E+2"):
        assert Config(lr_mult=(f"a=b={number}",)).lr_mult == (f"a=b={number}",)


def test_a_config_is_immutable():
    with pytest.raises(FrozenInstanceError):
        Config().lr = 1.0


def test_resize_defaults_to_a_multiple_of_the_image_size():
    assert [Config(image_size=side).resize_px for side in (64, 224, 299)] == [73, 256, 342]
    assert Config(image_size=64, resize=64).resize_px == 64


@given(side=st.integers(8, 4000))
@settings(max_examples=50, deadline=None)
def test_a_resized_test_image_is_never_smaller_than_its_crop(side):
    assert Config(image_size=side).resize_px >= side


def test_a_run_cannot_be_written_into_the_images(tmp_path):
    with pytest.raises(ConfigError, match="is inside the images of --data"):
        Config(data=str(tmp_path), out=str(tmp_path / "train" / "run"))
    assert Config(data=str(tmp_path), out=str(tmp_path / "runs")).folder == tmp_path / "runs"


def test_a_run_is_named_after_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Config(data="somewhere/birds").folder == Path("runs/birds")
    assert Config(data=".").folder == Path("runs", tmp_path.name)
    assert Config(data="birds", out="else/where").folder == Path("else/where")


def test_the_groups_contain_every_setting_once():
    names = [f.name for group in GROUPS for f in fields(group)]
    assert names == list(FIELDS)


def test_settings_that_define_a_step_may_not_change_on_resume():
    assert FREE_ON_RESUME.isdisjoint({"batch_size", "lr", "seed", "model", "optimizer", "dtype"})
    assert {"epochs", "device", "out", "num_workers"} <= FREE_ON_RESUME


def test_a_config_can_be_written_as_json():
    read = json.loads(json.dumps(Config(step_epochs=(1.0, 2.5), schedule="step").as_dict()))
    assert read["step_epochs"] == [1.0, 2.5]
    assert set(read) == set(FIELDS)
