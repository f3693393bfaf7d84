"""train --preview draws what the network sees in the first step, and does nothing else."""

import numpy as np
import pytest
from PIL import Image

from dist_ft import train
from dist_ft.config import Config
from dist_ft.data.image_folder import scan
from dist_ft.data.loader import Batch
from dist_ft.data.rank_batches import RankBatches
from dist_ft.data.transforms import InputSpec
from dist_ft.training import preview
from dist_ft.training.inputs import augmentation_of
from tests.conftest import TINY, run_job


@pytest.mark.parametrize("name, kind", [("sheet.png", "PNG"), ("sheet.JPG", "JPEG")])
def test_a_preview_is_written_and_nothing_is_trained(call, tiny, tmp_path, monkeypatch, name, kind):
    monkeypatch.chdir(tmp_path)
    flags = ["--data", tiny, "--preview", name, *TINY, "--weights", "missing.params"]
    status, output, errors = call(train, *flags)
    assert (status, errors) == (0, "")
    assert output.splitlines()[-1] == f"{name}: 24 of the 24 images of the first step"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with Image.open(tmp_path / name) as image:
        assert image.format == kind
        assert len(image.convert("RGB").getcolors(2**24)) > 1000


def test_a_preview_does_not_touch_the_folder_of_a_run(call, tiny, trained_run, tmp_path):
    before = sorted((path, path.stat().st_mtime_ns) for path in trained_run.rglob("*"))
    flags = ["--data", tiny, "--out", trained_run, "--preview", tmp_path / "p.png", *TINY]
    assert call(train, *flags)[0] == 0
    assert sorted((path, path.stat().st_mtime_ns) for path in trained_run.rglob("*")) == before


def test_a_sheet_shows_the_pixels_and_classes_of_the_batch(tiny):
    dataset = scan(str(tiny))
    config = Config(trivial_augment=True, random_erasing=0.5)
    batches = RankBatches(
        dataset, InputSpec(32, 36, False), 0, 0, 1, 2, 1, augmentation=augmentation_of(config)
    )
    (batch,) = batches.train(0, [slice(0, 40)])
    batches.close()
    drawn = np.asarray(preview.sheet(batch, dataset.classes))
    side, width, height = 192, 192 + preview.GAP_PX, 192 + preview.CAPTION_PX
    assert drawn.shape == (4 * height, 8 * width, 3)
    for number, pixels in enumerate(batch.x[:32]):
        left, top = number % 8 * width, number // 8 * height
        tile = drawn[top : top + side, left : left + side]
        assert (tile == pixels.repeat(6, axis=0).repeat(6, axis=1)).all()
        assert (drawn[top + side : top + height, left : left + side] < 128).any()  # a caption
    names = [dataset.classes[label] for label in batch.labels[:32]]
    assert preview.captions(batch, dataset.classes) == names


def test_large_images_keep_their_pixels():
    x = np.random.RandomState(0).randint(0, 256, (3, 200, 200, 3)).astype(np.uint8)
    batch = Batch(x, np.zeros(3, np.int32), np.ones(3, np.float32), np.arange(3))
    drawn = np.asarray(preview.sheet(batch, ["\u5bff\u53f8"]))
    assert (drawn[:200, 208:408] == x[1]).all()


def test_captions_give_shares_of_mixed_images_and_name_unreadable_ones():
    shares = np.array([0.25, 0.25, 0, 0], np.float32)
    labels, mask = np.array([0, 1, 1, 0], np.int32), np.array([1, 1, 1, 0], np.float32)
    batch = Batch(np.zeros((4, 8, 8, 3), np.uint8), labels, mask, np.arange(4), shares)
    long = "b" * preview.MAX_CAPTION_CHARS
    assert preview.captions(batch, ["apple pie", "b" * 99]) == [
        *(f"apple pie 75%\n{long} 25%", f"{long} 75%\napple pie 25%"),
        *(long, "cannot be read"),
    ]


@pytest.mark.parametrize("name", ["sheet.gif", "sheet"])
def test_other_formats_are_rejected(call, name):
    status, _, errors = call(train, "--preview", name)
    assert status == 2
    assert f"--preview {name}: must end with .png, .jpg or .jpeg" in errors


@pytest.mark.jobs
def test_the_preview_of_two_ranks_is_that_of_one(tiny, tmp_path):
    """With mixing, which needs both images of a pair."""
    sheets = []
    for num_ranks in (0, 2):
        path = tmp_path / f"{num_ranks}.png"
        flags = ["--data", str(tiny), *TINY, "--mixup", "1", "--preview", str(path)]
        ended = run_job(["-m", "dist_ft.train", *flags], 100, num_ranks)
        assert ended.status == 0, ended.output
        assert ended.output.count("images of the first step") == 1
        sheets.append(np.asarray(Image.open(path)))
    assert (sheets[0] == sheets[1]).all()
