"""data.image_cache: images are decoded once, and a stale cache is never used."""

import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dist_ft.data import decoding, image_cache, locked_files, transforms
from dist_ft.data.image import CorruptImage
from dist_ft.data.image_folder import scan
from dist_ft.data.pixel_file import PixelFileWriter
from dist_ft.data.rank_batches import RankBatches
from dist_ft.data.transforms import InputSpec
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from tests.conftest import ENVIRONMENT
from tests.images import make_folder

SPEC = InputSpec(24, 28, False)

# Decodes a data set into memory; reading the last test image takes for ever.
BUILDER = """
import os, sys
from contextlib import ExitStack
from pathlib import Path
from dist_ft.data import image_cache
from dist_ft.data.image_folder import scan
from dist_ft.data.transforms import InputSpec

dataset = scan(sys.argv[1])
last = dataset.test.root / dataset.test.paths[-1]
last.unlink()
os.mkfifo(last)
files = image_cache.cache_files(dataset, InputSpec(24, 28, False), 28, Path("/dev/shm"))
files = list(files.values())
with ExitStack() as stack:
    image_cache._build_in_memory(files, 2, lambda line: print(line, flush=True), stack)
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("cache"), train=[6, 5], test=[3, 4])


@pytest.fixture
def dataset(original, tmp_path):
    shutil.copytree(original, tmp_path / "data")
    return scan(str(tmp_path / "data"))


@pytest.fixture(scope="module")
def world():
    world = World("cpu", 300)
    yield world
    world.close()


def open_cache(dataset, world, place, folder, side=28):
    return image_cache.open_cache(dataset, SPEC, side, place, folder, 2, world)


def cache_files(dataset, folder):
    return list(image_cache.cache_files(dataset, SPEC, 28, folder).values())


def epoch(dataset, cache, num_workers=2):
    batches = RankBatches(dataset, SPEC, 0, 0, 1, num_workers, 1, cache)
    result = [*batches.train(3, [slice(0, 4), slice(4, 11)]), *batches.test()]
    batches.close()
    return [(batch.x.tobytes(), batch.labels.tolist(), batch.mask.tolist()) for batch in result]


@pytest.mark.parametrize("place", ["ram", "disk"])
def test_if_no_image_is_reduced_the_batches_are_those_without_a_cache(
    dataset, world, tmp_path, place
):
    in_memory = set(Path("/dev/shm").glob("dist_ft-*"))
    cache = open_cache(dataset, world, place, tmp_path / "cache", side=200)
    for index in range(len(dataset.train)):
        pixels = decoding.decode(dataset.train.read(index))
        assert (cache["train"].image(index).pixels() == pixels).all()
    assert len(list(tmp_path.glob("cache/*"))) == (2 if place == "disk" else 0)
    assert set(Path("/dev/shm").glob("dist_ft-*")) <= in_memory
    cached_batches, batches = epoch(dataset, cache), epoch(dataset, None)
    assert cached_batches[2:] == batches[2:]  # the test batches are identical
    for (cached, *rest), (uncached, *expected) in zip(cached_batches, batches):
        difference = np.frombuffer(cached, np.uint8).astype(int) - np.frombuffer(uncached, np.uint8)
        assert abs(difference).mean() < 4  # without a cache, the chroma of JPEGs is repeated
        assert rest == expected


def test_cached_training_images_are_reduced_and_test_images_are_crops(dataset, world, tmp_path):
    cache = open_cache(dataset, world, "disk", tmp_path, side=28)
    train, test = cache["train"], cache["test"]
    for index in range(len(train)):
        cached, source = train.image(index), decoding.open_image(dataset.train.read(index))
        assert min(cached.height, cached.width) == 28
        longer = max(source.height, source.width) * 28 / min(source.height, source.width)
        assert abs(max(cached.height, cached.width) - longer) <= 0.5
    for index in range(len(test)):
        expected = transforms.center_crop(decoding.decode(dataset.test.read(index)), *SPEC)
        assert (test.image(index).pixels() == expected).all()
    assert epoch(dataset, cache, 1) == epoch(dataset, cache, 4)


def test_an_unreadable_image_is_reported_as_without_a_cache(dataset, world, tmp_path):
    path = dataset.train.root / dataset.train.paths[4]
    path.write_bytes(path.read_bytes()[:100])
    cache = open_cache(dataset, world, "disk", tmp_path / "cache")
    with pytest.raises(CorruptImage):
        cache["train"].image(4)
    for cache_or_none in (cache, None):
        batches = RankBatches(dataset, SPEC, 0, 0, 1, 2, 1, cache_or_none)
        (batch,) = batches.train(0, [slice(0, 11)])
        assert batch.num_images == 10
        assert list(batches.train_loader.unreadable) == [dataset.train.paths[4]]
        batches.close()


def change_bytes(split):
    path = split.root / split.paths[2]
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))


def add_image(split):
    shutil.copy(split.root / split.paths[2], split.root / "class_a" / "zzz.jpg")


def remove_image(split):
    (split.root / split.paths[2]).unlink()


def truncate_cache(split):
    for file in (split.root.parent.parent / "cache").glob("*-train-*"):
        file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("change", [change_bytes, add_image, remove_image, truncate_cache])
def test_a_valid_cache_is_reused_and_a_stale_one_replaced(dataset, world, tmp_path, change, caplog):
    caplog.set_level(logging.INFO, "dist_ft")

    def open_and_count(dataset):
        caplog.clear()
        train = open_cache(dataset, world, "disk", tmp_path / "cache")["train"]
        assert len(train) == len(dataset.train)
        names = {file.name for file in (tmp_path / "cache").iterdir()}
        return names, sum("decoding" in message for message in caplog.messages)

    names, num_decoded = open_and_count(dataset)
    assert num_decoded == 2
    assert open_and_count(dataset) == (names, 0)
    change(dataset.train)
    assert open_and_count(scan(str(dataset.train.root.parent))) == (names, 1)


def test_a_cache_of_an_earlier_version_is_replaced(dataset, world, tmp_path, monkeypatch):
    """Of one that loaded other pixels from the same files."""
    monkeypatch.setattr(image_cache, "PIXELS_VERSION", image_cache.PIXELS_VERSION - 1)
    open_cache(dataset, world, "disk", tmp_path)
    monkeypatch.undo()
    files = cache_files(dataset, tmp_path)
    assert not any(file.is_valid() for file in files)
    open_cache(dataset, world, "disk", tmp_path)
    assert all(file.is_valid() for file in files)
    assert len(list(tmp_path.glob("*.pack"))) == len(files)


def test_a_cache_made_without_pillow_heif_is_replaced_when_it_is_installed(
    dataset, world, tmp_path, monkeypatch
):
    pytest.importorskip("pillow_heif")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    open_cache(dataset, world, "disk", tmp_path)
    assert all(file.is_valid() for file in cache_files(dataset, tmp_path))
    monkeypatch.undo()
    assert not any(file.is_valid() for file in cache_files(dataset, tmp_path))


def test_a_full_disk_is_reported_with_a_remedy(dataset, world, tmp_path):
    """A limit on the size of files stands in for the full disk."""
    (tmp_path / "cache").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, before[1]))
    try:
        with pytest.raises(UserError, match="File too large.*--cache-dir"):
            open_cache(dataset, world, "disk", tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_process_that_is_killed_while_decoding_leaves_nothing_in_memory(dataset):
    root = dataset.train.root.parent
    prefixes = [file.path.name[:12] for file in cache_files(dataset, Path())]

    def files_in_memory():
        return [file for prefix in prefixes for file in Path("/dev/shm").glob(f"*{prefix}*")]

    command = [sys.executable, "-c", BUILDER, str(root)]
    builder = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert "train" in builder.stdout.readline()
    assert "test" in builder.stdout.readline()  # the training images are complete
    assert files_in_memory() == []
    builder.kill()
    builder.communicate(timeout=60)
    assert files_in_memory() == []


def test_abandoned_files_in_memory_are_removed_and_those_in_use_are_kept(dataset, world, tmp_path):
    abandoned, in_use = (
        Path("/dev/shm", f"dist_ft-{os.getpid()}{name}.{locked_files.boot_id()}.test.pack")
        for name in ("abandoned", "in-use")
    )
    with PixelFileWriter(in_use) as writer:
        writer.fill("key", 3, lambda _: np.zeros((2, 2, 3), np.uint8), 1)
        writer.finish()
        abandoned.write_bytes(b"")
        try:
            open_cache(dataset, world, "ram", tmp_path)
            assert in_use.exists() and not abandoned.exists()
        finally:
            in_use.unlink()
            abandoned.unlink(missing_ok=True)
