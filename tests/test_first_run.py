"""launch/first_run.sh, which `make train` runs: which images, weights and flags a run starts with.

The programs that it starts are scripts, which print their arguments and exit with a given status.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from dist_ft import settings_flags

LAUNCH = Path(__file__).resolve().parent.parent / "launch"
DOWNLOAD = "python food5/prepare.py --download --max-mb 1000 --out food5"
GENERATE = "python food5/sample.py --out food5"
PROGRAM = """#!/bin/sh
echo "$(basename "$0") $@"
case "$*" in
    *prepare.py*) exit ${DOWNLOAD_STATUS:-0} ;;
    "-m dist_ft.models.pretrained"*) exit ${WEIGHTS_STATUS:-0} ;;
esac
"""


@pytest.fixture
def repo(tmp_path):
    (tmp_path / "launch").mkdir()
    for name in ("first_run.sh", "common.sh"):
        shutil.copy(LAUNCH / name, tmp_path / "launch")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("python", "horovodrun"):
        (tmp_path / ".venv/bin" / name).write_text(PROGRAM)
        (tmp_path / ".venv/bin" / name).chmod(0o755)
    (tmp_path / "food5").mkdir()
    return tmp_path


def run(repo: Path, status: int = 0, **env: object) -> list[str]:
    """The lines of its output, with paths relative to the repository."""
    removed = ("CI", "VENV", "DATA", "MODEL", "WEIGHTS", "NUM_PROCS", "TRAIN_FLAGS")
    clean = {key: value for key, value in os.environ.items() if key not in removed}
    done = subprocess.run(
        [repo / "launch/first_run.sh"],
        env={**clean, **{key: str(value) for key, value in env.items()}},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    return done.stdout.replace(f"{repo}/", "").splitlines()


def programs(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith(("python ", "horovodrun "))]


def job(data="food5", weights="auto", out="runs/food5", flags="", num_procs=2):
    return (
        f"horovodrun -np {num_procs} -H 127.0.0.1:{num_procs} --gloo .venv/bin/python -m"
        f" dist_ft.train --data {data} --model resnet34_v2 --weights {weights} --out {out} {flags}"
    )


FIND_WEIGHTS = "python -m dist_ft.models.pretrained auto resnet34_v2"
SMALL = "--image-size 96 --batch-size 25 --epochs 6"


def test_food5_is_downloaded_when_there_are_no_images(repo):
    assert programs(run(repo))[:2] == [DOWNLOAD, FIND_WEIGHTS]


def test_without_a_network_pictures_are_generated_and_the_output_says_so(repo):
    lines = run(repo, DOWNLOAD_STATUS=69)
    assert programs(lines) == [DOWNLOAD, GENERATE, FIND_WEIGHTS, job(flags=SMALL)]
    assert any(line.startswith("generating pictures instead of food5") for line in lines)


def test_ci_never_downloads_images(repo):
    assert programs(run(repo, CI="true"))[0] == GENERATE


def test_existing_images_stay_and_the_output_names_the_download(repo):
    (repo / "food5/train").mkdir()
    lines = run(repo)
    assert programs(lines) == [FIND_WEIGHTS, job(flags=SMALL)]
    assert "food5/prepare.py --download --overwrite" in lines[0]


@pytest.mark.parametrize("status", [1, 130])
def test_a_download_that_fails_otherwise_ends_the_command_with_its_status(repo, status):
    assert programs(run(repo, status, DOWNLOAD_STATUS=status)) == [DOWNLOAD]


def test_the_real_images_are_trained_on_with_the_short_recipe_and_its_explanation(repo):
    (repo / "food5/train").mkdir()
    (repo / "food5/split.csv").touch()
    lines = run(repo)
    flags = "--config food5/quick.yaml"
    assert programs(lines) == [FIND_WEIGHTS, job(out="runs/food5-quick", flags=flags)]
    text = "\n".join(lines)
    assert "Test accuracy to expect" in text
    assert "python -m dist_ft.train --config food5/finetune.yaml" in text


def test_without_pretrained_weights_the_run_starts_from_random_ones(repo):
    lines = run(repo, CI=1, WEIGHTS_STATUS=69)
    assert lines[-1] == job(weights="none", flags=SMALL)
    assert "warning: no pretrained weights; this run starts from random parameters" in lines


def test_wrong_weights_end_the_command(repo):
    assert programs(run(repo, 1, CI=1, WEIGHTS_STATUS=1))[-1] == FIND_WEIGHTS


def test_the_variables_of_make_reach_the_run(repo):
    settings = {"DATA": "/my/photos", "WEIGHTS": "none", "NUM_PROCS": 3, "TRAIN_FLAGS": "--lr 1"}
    assert programs(run(repo, **settings)) == [
        "python -m dist_ft.models.pretrained none resnet34_v2",
        job("/my/photos", "none", "runs/photos", "--lr 1", num_procs=3),
    ]


def test_the_short_recipe_differs_from_the_full_one_in_size_length_and_folder():
    food5 = LAUNCH.parent / "food5"
    files = (food5 / "finetune.yaml", food5 / "quick.yaml")
    full, short = (asdict(settings_flags.parse(["--config", str(file)])) for file in files)
    different = {name for name in full if full[name] != short[name]}
    assert different == {"image_size", "epochs", "out"}
