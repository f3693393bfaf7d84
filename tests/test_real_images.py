"""The main job on real photographs with pretrained features, where both are at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.conftest import REPO, train

FOOD5 = Path(os.environ.get("DIST_FT_FOOD5", REPO.parent / "shared" / "food5-64px"))
WEIGHTS = Path(
    os.environ.get(
        "DIST_FT_WEIGHTS", REPO.parent / "shared" / "weights" / "resnet34_v2-food96-64px.params"
    )
)


@pytest.mark.skipif(
    not (FOOD5.is_dir() and WEIGHTS.is_file()),
    reason=f"no images in {FOOD5} (DIST_FT_FOOD5) or no weights in {WEIGHTS} (DIST_FT_WEIGHTS)",
)
def test_one_epoch_on_two_ranks_is_worth_what_others_have_measured(tmp_path):
    """Two other implementations of the recipe came to 0.643 and 0.663 after one epoch; one
    standard error of 750 images is 0.017; from random numbers it is 0.34 after four."""
    flags = ["--data", str(FOOD5), "--weights", str(WEIGHTS), "--image-size", "64"]
    train(*flags, "--epochs", "1", "--out", str(tmp_path), num_ranks=2, timeout_s=280)
    row = json.loads((tmp_path / "scores.jsonl").read_text())
    assert 0.653 - 3 * 0.017 < row["test_accuracy"] < 0.653 + 3 * 0.017
    assert row["test_images"] == sum(1 for _ in (FOOD5 / "test").glob("*/*"))
