"""Recipes are files of settings: everything else wins over them, and --show prints the result."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace

import pytest
import yaml

from dist_ft import bench, settings_file, settings_flags
from dist_ft.config import Config
from tests.conftest import REPO

STRONG = settings_file.read_recipe("strong")


def flags_of(settings):
    """The command line of some settings."""
    return [word for name, value in settings.items() for word in _flag(name, value)]


def _flag(name, value):
    values = value if isinstance(value, tuple) else (value,)
    yes_no = {True: "yes", False: "no"}
    for v in values:
        yield f"--{name.replace('_', '-')}"
        yield yes_no[v] if isinstance(v, bool) else str(v)


def shown(capsys, *argv):
    """The output of --show."""
    with pytest.raises(SystemExit) as exit:
        settings_flags.parse([*argv, "--show"])
    assert exit.value.code in (None, 0)
    return capsys.readouterr().out


def test_the_original_recipe_is_the_default():
    assert Config(**settings_file.read_recipe("original")) == Config()
    assert settings_flags.parse(["--recipe", "original"]) == settings_flags.parse([]) == Config()


def test_the_original_recipe_states_what_the_strong_one_changes():
    """Settings that enable something, and are off by default, need no mention."""
    original = settings_file.read_recipe("original")
    for name, value in STRONG.items():
        assert value != getattr(Config(), name)
        assert name in original or not getattr(Config(), name), name


def test_a_recipe_is_the_same_run_as_its_settings():
    assert settings_flags.parse(["--recipe", "strong"]) == Config(**STRONG)
    assert settings_flags.parse(flags_of(STRONG)) == Config(**STRONG)
    path = str(settings_file.RECIPE_FOLDER / "strong.yaml")
    assert settings_flags.parse(["--config", path]) == Config(**STRONG)


def test_flags_win_over_the_file_and_the_file_over_the_recipe(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("momentum: 0.8\nwarmup-epochs: 2\n")
    config = settings_flags.parse(
        ["--recipe", "strong", "--config", str(file), "--warmup-epochs", "3"]
    )
    assert config == replace(Config(**STRONG), momentum=0.8, warmup_epochs=3)


def test_a_file_may_name_the_recipe_and_the_flag_wins(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("recipe: strong\nlr: 0.5\n")
    config = settings_flags.parse(["--config", str(file)])
    assert config == replace(Config(**STRONG), lr=0.5)
    config = settings_flags.parse(["--config", str(file), "--recipe", "original"])
    assert config == Config(lr=0.5)


@pytest.mark.parametrize("text", ["recipe: stronk\n", "recipe:\n", "recipe: [strong]\n"])
def test_an_unknown_recipe_is_rejected(tmp_path, capsys, text):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    for argv in (["--config", str(file)], ["--recipe", "stronk"]):
        with pytest.raises(SystemExit) as exit:
            settings_flags.parse(argv)
        assert exit.value.code == 2
        assert "choose one of original, strong" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"freeze": ("conv0", "a b, c: [d]"), "lr_mult": ("features.0=0.5",), "keep_ratio": True},
        {"data": "off", "out": "a\nb\t'\"#é😀", "cache": "off", "resume": "no"},
        {"out": os.fsdecode(b"caf\xe9"), "wd": 1e-05, "lr": 1e20, "batch_size": 7},
        {"schedule": "step", "step_epochs": (3.0, 4.5), "warmup_epochs": 0.5},
    ],
)
@pytest.mark.parametrize("recipe", settings_file.RECIPES)
def test_what_show_prints_is_a_file_of_the_same_settings(tmp_path, capsys, recipe, settings):
    flags = ["--recipe", recipe, *flags_of(settings)]
    text = shown(capsys, *flags)
    file = tmp_path / "shown.yaml"
    file.write_bytes(text.encode("utf-8", "backslashreplace"))
    assert settings_flags.parse(["--config", str(file)]) == settings_flags.parse(flags)
    names = [
        line.partition(":")[0].strip('"') for line in text.splitlines() if line[:1] not in ("", "#")
    ]
    assert names == [f.name.replace("_", "-") for f in fields(Config)]


def test_show_names_the_source_of_a_setting(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("wd: 0.5\n")
    text = shown(capsys, "--recipe", "strong", "--config", str(file), "--lr", "0.25")
    sources = {line.partition(":")[0]: line.partition(" (from ")[2] for line in text.splitlines()}
    assert sources["momentum"] == "--recipe strong)"
    assert sources["wd"] == f"--config {file})"
    assert sources["lr"] == "a flag)"
    assert sources["optimizer"] == ""


def test_show_reports_settings_that_cannot_be_used(capsys):
    with pytest.raises(SystemExit) as exit:
        settings_flags.parse(["--show", "--lr", "-1"])
    assert exit.value.code == 2
    assert "--lr -1.0: must be at least 0" in capsys.readouterr().err


def test_bench_shows_the_settings_that_it_would_measure(call):
    status, out, _ = call(bench, "step", "--recipe", "strong", "--show")
    assert status in (None, 0)
    assert yaml.safe_load(out)["momentum"] == STRONG["momentum"]


def test_show_needs_no_mxnet():
    command = [sys.executable, "-X", "importtime", "-m", "dist_ft.train", "--show"]
    ended = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    loaded = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "yaml" in loaded
    assert not loaded & {"mxnet", "numpy", "cv2", "horovod"}


@pytest.mark.parametrize("command", ["build", "sdist"])
def test_a_package_contains_the_recipes(tmp_path, command):
    """build: what a wheel contains. In a copy, since setuptools writes beside the sources."""
    shutil.copytree(REPO / "dist_ft", tmp_path / "dist_ft")
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(REPO / name, tmp_path)
    made = subprocess.run(
        [sys.executable, "setup.py", "-q", command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert made.returncode == 0, made.stderr
    for archive in tmp_path.glob("dist/*"):
        shutil.unpack_archive(str(archive), str(tmp_path / "build"))
    for name in settings_file.RECIPES:
        assert list(tmp_path.glob(f"build/*/dist_ft/recipes/{name}.yaml"))
