"""food5/sample.py generates the same photograph-like images for the same seed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPO
from tests.images import read_tree

CLASSES = ["apple_pie", "baby_back_ribs", "baklava", "beef_carpaccio", "beef_tartare"]


def command(out: Path, *flags: object) -> list[str]:
    return [sys.executable, str(REPO / "food5" / "sample.py"), "--out", str(out), *map(str, flags)]


def sample(out: Path, *flags: object) -> subprocess.CompletedProcess:
    return subprocess.run(command(out, *flags), capture_output=True, text=True, timeout=60)


def test_an_image_depends_on_the_seed_alone_not_on_workers_or_counts(tmp_path):
    flags = ("--side", 64)
    sample(tmp_path / "few", "--train", 2, "--test", 1, "--num-workers", 1, *flags)
    sample(tmp_path / "more", "--train", 3, "--test", 2, "--num-workers", 3, *flags)
    sample(tmp_path / "other", "--train", 2, "--test", 1, "--seed", 1, *flags)
    few, more, other = (read_tree(tmp_path / name) for name in ("few", "more", "other"))
    assert len(few) == 15
    assert few.items() <= more.items()
    assert not set(few.values()) & set(other.values())


def test_the_images_vary_like_photographs(tmp_path):
    made = sample(tmp_path, "--train", 12, "--test", 1, "--side", 128)
    assert made.returncode == 0, made.stderr
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == CLASSES
    pictures = [Image.open(path) for path in (tmp_path / "train").rglob("*.jpg")]
    sizes = [picture.size for picture in pictures]
    assert {picture.mode for picture in pictures} == {"RGB"}
    assert max(max(size) for size in sizes) == 128
    assert len(set(sizes)) > 8
    assert any(w > h for w, h in sizes) and any(w < h for w, h in sizes)
    has_exif = [bool(picture.getexif()) for picture in pictures]
    assert any(has_exif) and not all(has_exif)
    assert all(np.asarray(picture).std() > 10 for picture in pictures)


def test_existing_images_are_replaced_only_with_overwrite(tmp_path):
    existing = tmp_path / "train" / "cats" / "existing.jpg"
    existing.parent.mkdir(parents=True)
    existing.write_bytes(b"existing")
    flags = ("--train", 1, "--test", 1, "--side", 64)
    refused = sample(tmp_path, *flags)
    assert refused.returncode == 1
    assert str(existing) in refused.stderr and "--overwrite" in refused.stderr
    assert read_tree(tmp_path) == {"train/cats/existing.jpg": b"existing"}
    (tmp_path / "split.csv").write_text("the table of the real images")
    assert sample(tmp_path, "--overwrite", *flags).returncode == 0
    assert not existing.exists()
    assert len(read_tree(tmp_path)) == 10


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_leaves_nothing(tmp_path, number, status):
    process = subprocess.Popen(
        command(tmp_path, "--train", 2000, "--side", 64), stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.rglob("*.jpg")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [("--train", "0"), ("--side", "5"), ("--seed", "-1")])
def test_a_number_out_of_range_is_named(tmp_path, flags):
    refused = sample(tmp_path / "out", *flags)
    assert refused.returncode == 2
    assert " ".join(flags) in refused.stderr
    assert not (tmp_path / "out").exists()
