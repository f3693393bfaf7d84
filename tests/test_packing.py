"""`python -m dist_ft.pack`: fills the cache of a run, or writes archives, without loading MXNet."""

import sys

import pytest
import simplejpeg

from dist_ft.data import image_cache
from dist_ft.data.image_folder import scan
from dist_ft.data.rank_batches import RankBatches
from dist_ft.data.transforms import InputSpec
from tests.conftest import REPO, run_command, run_job
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
    assert all(file.is_valid() for file in files)
    job = run_job(["-m", "dist_ft.pack", str(data), *flags], 60)
    assert job.output.count("up to date") == 2


def batches_of(root):
    batches = RankBatches(scan(str(root)), SPEC, 0, 0, 1, 2, 1)
    result = [*batches.train(1, [slice(0, 7)]), *batches.test()]
    batches.close()
    return [(batch.x.tobytes(), batch.labels.tolist(), batch.mask.tolist()) for batch in result]


def test_archives_give_the_same_batches_as_the_folder(data, tmp_path):
    job = run_job(["-m", "dist_ft.pack", str(data), "--recordio", str(tmp_path)], 60)
    assert job.status == 0, job.output
    assert scan(str(tmp_path)).classes == scan(str(data)).classes
    assert batches_of(tmp_path) == batches_of(data)


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


def loaded_modules(code, *argv):
    """The names of the modules that a program has imported when it exits."""
    program = f"""
import atexit, runpy, sys
sys.argv[:] = {[str(word) for word in argv]!r}
atexit.register(lambda: print("MODULES", *sys.modules))
{code}
"""
    job = run_command([sys.executable, "-c", program], 60)
    return job.output.rpartition("MODULES")[2].split()


def test_packing_auditing_and_preparing_do_not_load_mxnet(data, tmp_path):
    pack = "runpy.run_module('dist_ft.pack', run_name='__main__')"
    audit = "runpy.run_module('dist_ft.audit', run_name='__main__')"
    prepare = f"sys.path.insert(0, {str(REPO / 'food5')!r}); import prepare"
    for modules in (
        loaded_modules(pack, "pack", data, "--recordio", tmp_path / "archives"),
        loaded_modules(pack, "pack", data, "--cache-dir", tmp_path / "cache"),
        loaded_modules(audit, "audit", data),
        loaded_modules(prepare),
    ):
        assert "dist_ft.data.decoding" in modules
        assert "mxnet" not in modules


def test_help_loads_nothing_heavy():
    modules = loaded_modules("runpy.run_module('dist_ft.pack', run_name='__main__')", "pack", "-h")
    assert "dist_ft.config" in modules
    assert not {"mxnet", "numpy", "cv2", "PIL"} & set(modules)
