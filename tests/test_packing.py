"""`python -m dist_ft.pack`: fills the cache of a run, or writes archives, without loading MXNet."""

import pytest
import simplejpeg

from dist_ft.data import image_cache
from dist_ft.data.image_folder import scan
from dist_ft.data.packing import write_archives
from dist_ft.data.rank_batches import RankBatches
from dist_ft.data.sources import read_divided
from dist_ft.data.transforms import InputSpec
from dist_ft.errors import UserError
from dist_ft.recipe_settings import DataSettings
from tests.conftest import run_job
from tests.images import make_folder

SPEC = InputSpec(24, 28, False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Seven training and six test images, of which the first test image is truncated."""
    root = make_folder(tmp_path_factory.mktemp("packing") / "data", train=[4, 3], test=[3, 3])
    broken = root / "test/class_a/000.jpg"
    broken.write_bytes(broken.read_bytes()[:90])
    return root


def test_the_command_fills_the_cache_that_a_run_uses(data, tmp_path):
    flags = ["--image-size", "24", "--resize", "28", "--cache-dir", str(tmp_path / "cache")]
    job = run_job(["-m", "dist_ft.pack", str(data), *flags], 60)
    assert job.status == 0, job.output
    assert job.output.count(" MB") == 2
    files = image_cache.cache_files(scan(str(data)), SPEC, 28, tmp_path / "cache")
    assert all(file.is_valid() for file in files.values())
    job = run_job(["-m", "dist_ft.pack", str(data), *flags], 60)
    assert job.output.count("up to date") == 2


def batches_of(root):
    batches = RankBatches(scan(str(root)), SPEC, 0, 0, 1, 2, 1)
    result = [*batches.train(1, [slice(0, 7)]), *batches.test()]
    batches.close()
    return [(batch.x.tobytes(), batch.labels.tolist(), batch.mask.tolist()) for batch in result]


def test_archives_give_the_same_batches_as_the_folder(data, tmp_path):
    words = ["-X", "importtime", "-m", "dist_ft.pack", str(data), "--recordio", str(tmp_path)]
    job = run_job(words, 60)
    assert job.status == 0, job.output
    assert " dist_ft.data.decoding\n" in job.output and " mxnet\n" not in job.output
    assert scan(str(tmp_path)).classes == scan(str(data)).classes
    assert batches_of(tmp_path) == batches_of(data)


def test_validation_images_taken_from_train_are_packed_as_val(data, tmp_path):
    out = tmp_path / "out"
    flags = ["--val-share", "0.4", "--seed", "2", "--cache-dir", str(tmp_path / "cache")]
    job = run_job(["-m", "dist_ft.pack", str(data), "--recordio", str(out), *flags], 60)
    assert job.status == 0, job.output
    dataset = scan(str(out))
    settings = DataSettings(data=str(data), val_share=0.4, seed=2, cache_dir=str(tmp_path))
    expected = read_divided(settings)
    for split, of_folder in zip(dataset.splits.values(), expected.splits.values()):
        assert split.labels == of_folder.labels
        assert [split.read(n) for n in range(len(split))] == [
            of_folder.read(n) for n in range(len(of_folder))
        ]
    with pytest.raises(UserError, match="has a val.rec, of other images; remove it"):
        write_archives(scan(str(data)), out, side=0, quality=95)


def test_archives_may_hold_reduced_images_and_leave_out_unreadable_ones(data, tmp_path):
    words = ["-m", "dist_ft.pack", str(data), "--recordio", str(tmp_path), "--side", "24"]
    job = run_job(words, 60)
    assert job.status == 0, job.output
    assert f"left out {data / 'test/class_a/000.jpg'}: " in job.output
    dataset = scan(str(tmp_path))
    assert (len(dataset.train), len(dataset.test)) == (7, 5)
    for split in (dataset.train, dataset.test):
        for index in range(len(split)):
            assert min(simplejpeg.decode_jpeg_header(split.read(index))[:2]) == 24


def test_a_missing_folder_is_named():
    job = run_job(["-m", "dist_ft.pack", "/nowhere"], 60)
    assert job.status == 1
    assert "dist_ft: /nowhere: no such folder" in job.output


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\u2028b", "cafe\u0301"], ids=ascii)
def test_class_names_survive_packing_or_are_rejected(tmp_path, name):
    root = make_folder(tmp_path / "data", train=[1, 1], test=[1, 1])
    for split in ("train", "test"):
        (root / split / "class_b").rename(root / split / name)
    dataset, out = scan(str(root)), tmp_path / "archives"
    if set(name) & {"\n", "\r"}:
        with pytest.raises(UserError, match="one class per line; rename 'a"):
            write_archives(dataset, out, side=0, quality=95)
        assert not out.exists()
    else:
        write_archives(dataset, out, side=0, quality=95)
        assert scan(str(out)).classes == dataset.classes
