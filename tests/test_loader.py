"""data.loader: the same batches for any number of workers, in order; no work is left over."""

import shutil
import threading

import mxnet as mx
import numpy as np
import psutil
import pytest

from dist_ft.data import decoding, sampler, transforms
from dist_ft.data.image import BLANK
from dist_ft.data.image_folder import scan
from dist_ft.data.loader import Loader
from dist_ft.data.targets import TargetRule
from tests.images import make_folder

SIDE = 24
ROWS = [[3, 20, 7, 0], [11, 12, 13, 23], [5, 4, 3, 2], [1, 19, 9, 8], [22, 21, 16, 6]]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("loader"), train=[9, 8, 7], test=[1, 1, 1])


@pytest.fixture
def split(original, tmp_path):
    shutil.copytree(original, tmp_path / "data")
    return scan(str(tmp_path / "data")).train


@pytest.fixture
def loader(split):
    loader = Loader(split, SIDE, num_workers=2, prefetch_mb=1)
    yield loader
    loader.close()


@pytest.fixture
def fill(split):
    """Augments an image as in epoch 0."""

    def fill(index, row):
        draws = sampler.image_draws(0, 0, index, transforms.NUM_DRAWS)
        transforms.random_resized_crop(decoding.open_image(split.read(index)), draws, row)

    return fill


def shares(*rows):
    """Shares of these indices without padding."""
    return [(np.array(row), np.ones(len(row), np.float32)) for row in rows]


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_batches_come_in_order_with_each_image_in_its_row(split, fill, num_workers):
    loader = Loader(split, SIDE, num_workers, prefetch_mb=1)
    batches = list(loader.batches(shares(*ROWS), fill))
    loader.close()
    assert [batch.indices.tolist() for batch in batches] == ROWS
    for batch in batches:
        for index, pixels, label in zip(batch.indices, batch.x, batch.labels):
            expected = np.empty_like(pixels)
            fill(index, expected)
            assert (pixels == expected).all()
            assert label == split.labels[index]


def test_a_batch_has_the_same_types_and_values_on_the_device(loader, fill):
    (batch,) = loader.batches(shares([4, 5, 6]), fill)
    assert (batch.x.dtype, batch.x.shape) == (np.uint8, (3, SIDE, SIDE, 3))
    assert (batch.labels.dtype, batch.labels.shape) == (np.int32, (3,))
    assert (batch.mask.dtype, batch.mask.shape) == (np.float32, (3,))
    batch.targets = TargetRule().apply(batch.labels, batch.mask, 3)
    expected_arrays = batch.x, batch.targets.labels, batch.targets.values
    for array, expected in zip(batch.on(mx.cpu()), expected_arrays):
        assert array.dtype == expected.dtype
        assert (array.asnumpy() == expected).all()


def test_padding_is_blank_or_repeats_an_image_and_does_not_count(loader, fill):
    mask = np.array([1, 1, 0, 0], np.float32)
    (batch,) = loader.batches([(np.array([2, 9, 2, -1]), mask)], fill)
    assert list(batch.mask) == [1, 1, 0, 0] and batch.num_images == 2
    assert list(batch.indices) == [2, 9, -1, -1]
    assert (batch.x[2] == batch.x[0]).all() and (batch.x[3] == BLANK).all()
    (empty,) = loader.batches(shares([]), fill)
    assert empty.x.shape == (0, SIDE, SIDE, 3) and empty.num_images == 0


@pytest.mark.parametrize(
    "content", [b"", b"not an image", None], ids=["zero bytes", "text", "truncated"]
)
def test_an_unreadable_file_is_masked_and_reported_and_no_other_row_changes(split, content, fill):
    path = split.paths[12]
    loader = Loader(split, SIDE, 2, 1)
    before = list(loader.batches(shares(*ROWS), fill))
    data = (split.root / path).read_bytes()
    (split.root / path).write_bytes(data[: len(data) // 2] if content is None else content)
    after = list(loader.batches(shares(*ROWS), fill))
    loader.close()
    assert list(after[1].mask) == [1, 0, 1, 1]
    assert list(after[1].indices) == ROWS[1]
    assert (after[1].x[1] == BLANK).all()
    assert list(loader.unreadable) == [path] and path in loader.unreadable[path]
    for number, (one, other) in enumerate(zip(before, after)):
        rows = [0, 2, 3] if number == 1 else [0, 1, 2, 3]
        assert (one.x[rows] == other.x[rows]).all()
        assert (one.labels == other.labels).all()


@pytest.mark.parametrize("num_workers", [1, 3])
def test_pairs_are_mixed_unless_an_image_is_padding_or_unreadable(split, fill, num_workers):
    (split.root / split.paths[12]).write_bytes(b"")
    rows = [11, 12, 13, 23, 5, 4, 3, 2, 1, 20, 19, 9, 8, 22]
    share = np.array(rows), np.array([1] * 13 + [0], np.float32)
    loader = Loader(split, SIDE, num_workers, 1)
    (plain,) = loader.batches([share], fill)

    def exchange(sample, first, second):
        first[:], second[:] = second.copy(), first.copy()
        return sample / 100

    (mixed,) = loader.batches([share], fill, exchange)
    loader.close()
    order = [0, 1, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 12, 13]
    assert (mixed.x == plain.x[order]).all()
    shares = [0, 0, 0.13, 0.13, 0.05, 0.05, 0.03, 0.03, 0.01, 0.01, 0.19, 0.19, 0, 0]
    assert list(mixed.partner_share) == list(np.float32(shares))
    assert (mixed.labels == plain.labels).all() and (mixed.mask == plain.mask).all()
    assert plain.partner_share is None


def test_a_repeated_sample_is_filled_with_its_own_number_and_reported_once(split, fill):
    (split.root / split.paths[3]).write_bytes(b"")
    filled = []

    def recording(sample, row):
        filled.append(sample)
        fill(sample % len(split), row)

    loader = Loader(split, SIDE, 1, 1)
    samples = [3, 5 + len(split), 3 + 2 * len(split)]
    (batch,) = loader.batches(shares(samples), recording)
    assert filled == samples and list(batch.indices) == [3, 5, 3]
    assert list(batch.labels) == [split.labels[index] for index in batch.indices]
    assert list(batch.mask) == [0, 1, 0] and list(loader.unreadable) == [split.paths[3]]
    loader.unreadable.clear()
    list(loader.batches(shares(samples[1:]), recording))  # the first time is on another rank
    assert loader.unreadable == {}
    loader.close()


def test_the_mask_of_a_share_is_not_modified(split, loader, fill):
    (split.root / split.paths[0]).write_bytes(b"")
    share = (np.array([0, 1]), np.ones(2, np.float32))
    (batch,) = loader.batches([share], fill)
    assert list(batch.mask) == [0, 1] and list(share[1]) == [1, 1]


def test_any_other_error_of_a_worker_is_raised_with_the_path(split, loader, fill):
    def failing(index, row):
        if index == 13:
            raise ZeroDivisionError("division by zero")
        fill(index, row)

    batches = loader.batches(shares(*ROWS), failing)
    assert next(batches).indices.tolist() == ROWS[0]
    with pytest.raises(RuntimeError, match=f"{split.paths[13]}: ZeroDivisionError: division"):
        next(batches)
    assert loader.unreadable == {}
    (batch,) = loader.batches(shares([1]), fill)  # the loader remains usable
    assert batch.num_images == 1


@pytest.mark.parametrize("ends_with_error", [False, True])
def test_a_loop_that_ends_early_leaves_no_running_work(loader, fill, ends_with_error):
    lock, started, finished = threading.Lock(), [], []

    def counting(index, row):
        with lock:
            started.append(index)
        try:
            if index == 5:
                raise ZeroDivisionError
            for _ in range(5):
                fill(index, row)
        finally:
            with lock:
                finished.append(index)

    if ends_with_error:
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            list(loader.batches(shares([5, *range(6, 20)], [1, 2, 3]), counting))
    else:
        batches = loader.batches(shares(*[[1, 2, 3, 4] * 4] * 6), counting)
        next(batches)
        batches.close()
    num_started = len(started)
    assert num_started == len(finished)
    loader.close()  # waits for any work that is left
    assert len(started) == num_started


@pytest.mark.parametrize("prefetch_mb, ahead", [(0, 1), (0.0104, 3), (1000, 8)])
def test_as_many_batches_are_prefetched_as_fit_into_the_memory(split, fill, prefetch_mb, ahead):
    """A batch of two images has 3,456 bytes."""
    num_taken = 0

    def endless_shares():
        nonlocal num_taken
        while True:
            num_taken += 1
            yield from shares([1, 2])

    loader = Loader(split, SIDE, 2, prefetch_mb)
    batches = loader.batches(endless_shares(), fill)
    for num_used in range(1, 4):
        next(batches)
        assert num_taken == num_used + ahead
    batches.close()
    loader.close()


def test_no_process_is_forked_and_no_thread_is_left(split, fill):
    before = psutil.Process().children(recursive=True)
    loader = Loader(split, SIDE, 3, 1)
    batches = loader.batches(shares(*ROWS), fill)
    next(batches)
    assert psutil.Process().children(recursive=True) == before
    assert any(thread.name.startswith("decode") for thread in threading.enumerate())
    list(batches)
    loader.close()
    assert not any(thread.name.startswith("decode") for thread in threading.enumerate())


def test_the_waiting_time_is_accumulated(loader, fill):
    waited_s = []
    for _ in range(2):
        waited_s.append(loader.waited_s)
        list(loader.batches(shares(*ROWS), fill))
    assert 0 == waited_s[0] < waited_s[1] < loader.waited_s
