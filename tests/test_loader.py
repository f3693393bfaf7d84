"""data.loader: the same bytes for any number of workers, in order, with nothing left running."""

import shutil
import threading

import mxnet as mx
import numpy as np
import psutil
import pytest

from dist_ft.data import decoding, sampler, transforms
from dist_ft.data.decoding import BLANK
from dist_ft.data.image_folder import scan
from dist_ft.data.loader import Loader
from tests.images import make_folder

SIDE = 24


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("loader"), train=[9, 8, 7], test=[1, 1, 1])


@pytest.fixture
def split(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path / "data")
    return scan(str(tmp_path / "data")).train


@pytest.fixture
def loader(split):
    loader = Loader(split, SIDE, num_workers=2, prefetch_mb=1)
    yield loader
    loader.close()


@pytest.fixture
def fill(split):
    """Augments an image as an epoch does."""

    def fill(index, row):
        draws = sampler.image_draws(0, 0, index, transforms.NUM_DRAWS)
        transforms.random_resized_crop(decoding.open_image(split.read(index)), draws, row)

    return fill


def shares(*rows):
    """Shares of these indices, all of them real."""
    return [(np.array(row), np.ones(len(row), np.float32)) for row in rows]


ROWS = [[3, 20, 7, 0], [11, 12, 13, 23], [5, 4, 3, 2], [1, 19, 9, 8], [22, 21, 16, 6]]


def test_any_number_of_workers_gives_the_same_bytes(split, fill):
    found = []
    for num_workers in (1, 2, 5):
        loader = Loader(split, SIDE, num_workers, 1)
        batches = list(loader.batches(shares(*ROWS), fill))
        loader.close()
        found.append(tuple((b.x.tobytes(), b.labels.tobytes(), b.mask.tobytes()) for b in batches))
    assert len(set(found)) == 1


def test_batches_come_in_order_with_each_image_in_its_row(split, loader, fill):
    batches = list(loader.batches(shares(*ROWS), fill))
    assert len(batches) == len(ROWS)
    for row, batch in zip(ROWS, batches):
        for index, pixels, label in zip(row, batch.x, batch.labels):
            expected = np.empty_like(pixels)
            fill(index, expected)
            assert (pixels == expected).all()
            assert label == split.labels[index]


def test_a_batch_has_the_types_and_shapes_that_the_network_takes(loader, fill):
    (batch,) = loader.batches(shares([4, 5, 6]), fill)
    assert (batch.x.dtype, batch.x.shape) == (np.uint8, (3, SIDE, SIDE, 3))
    assert (batch.labels.dtype, batch.labels.shape) == (np.int32, (3,))
    assert (batch.mask.dtype, batch.mask.shape) == (np.float32, (3,))
    assert batch.num_images == 3
    for array, expected in zip(batch.on(mx.cpu()), (batch.x, batch.labels, batch.mask)):
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        assert (array.asnumpy() == expected).all()


def test_index_minus_one_is_a_blank_row_that_does_not_count(loader, fill):
    indices, mask = np.array([2, -1, -1]), np.array([1, 0, 0], np.float32)
    (batch,) = loader.batches([(indices, mask)], fill)
    assert list(batch.mask) == [1, 0, 0]
    assert (batch.x[1:] == BLANK).all()
    assert list(batch.labels[1:]) == [0, 0]
    assert batch.num_images == 1


def test_padding_that_repeats_an_image_has_its_pixels_and_does_not_count(loader, fill):
    mask = np.array([1, 1, 0], np.float32)
    (batch,) = loader.batches([(np.array([2, 9, 2]), mask)], fill)
    assert list(batch.indices) == [2, 9, -1]
    assert (batch.x[0] == batch.x[2]).all()
    assert batch.num_images == 2


def test_a_share_without_rows_is_a_batch_without_rows(loader, fill):
    (batch,) = loader.batches(shares([]), fill)
    assert batch.x.shape == (0, SIDE, SIDE, 3)
    assert batch.num_images == 0


@pytest.mark.parametrize(
    "content", [b"", b"no image", None], ids=["zero bytes", "text", "truncated"]
)
def test_an_unreadable_file_is_masked_out_and_named_and_its_neighbours_stay(split, content, fill):
    path = split.paths[12]
    loader = Loader(split, SIDE, 2, 1)
    whole = list(loader.batches(shares(*ROWS), fill))
    data = (split.root / path).read_bytes()
    (split.root / path).write_bytes(data[: len(data) // 2] if content is None else content)
    broken = list(loader.batches(shares(*ROWS), fill))
    loader.close()
    assert list(broken[1].mask) == [1, 0, 1, 1]
    assert list(broken[1].indices) == ROWS[1]
    assert (broken[1].x[1] == BLANK).all()
    assert list(loader.unreadable) == [path]
    assert path in loader.unreadable[path]
    for number, (before, after) in enumerate(zip(whole, broken)):
        rows = [0, 2, 3] if number == 1 else [0, 1, 2, 3]
        assert (before.x[rows] == after.x[rows]).all()
        assert (before.labels == after.labels).all()


def test_a_share_given_twice_is_not_changed_by_an_unreadable_file(split, loader, fill):
    (split.root / split.paths[0]).write_bytes(b"")
    share = (np.array([0, 1]), np.ones(2, np.float32))
    for batch in loader.batches([share, share], fill):
        assert list(batch.mask) == [0, 1]
    assert list(share[1]) == [1, 1]


def test_any_other_error_of_a_worker_is_raised_in_the_loop_with_the_path(split, loader, fill):
    def broken(index, row):
        if index == 13:
            raise ZeroDivisionError("by nothing")
        fill(index, row)

    batches = loader.batches(shares(*ROWS), broken)
    assert (next(batches).labels == [split.labels[index] for index in ROWS[0]]).all()
    with pytest.raises(RuntimeError, match=f"{split.paths[13]}: ZeroDivisionError: by nothing"):
        next(batches)
    assert loader.unreadable == {}
    (after,) = loader.batches(shares([1]), fill)  # it serves again
    assert after.num_images == 1


class Counted:
    """Fills rows, and knows how many it is at."""

    def __init__(self, fill):
        self.fill, self.lock, self.begun, self.ended = fill, threading.Lock(), 0, 0

    def __call__(self, index, row):
        with self.lock:
            self.begun += 1
        try:
            if index == 5:
                raise ZeroDivisionError
            for _ in range(30):
                self.fill(index, row)
        finally:
            with self.lock:
                self.ended += 1


def test_a_loop_that_ends_early_leaves_no_running_work(loader, fill):
    counted = Counted(fill)
    batches = loader.batches(shares(*[[1, 2, 3, 4] * 4] * 6), counted)
    next(batches)
    batches.close()
    begun, ended = counted.begun, counted.ended
    assert begun == ended
    assert begun < 6 * 16
    loader.close()  # waits for whatever would still be there
    assert counted.begun == begun


def test_an_error_leaves_no_running_work(loader, fill):
    counted = Counted(fill)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        list(loader.batches(shares([5, *range(6, 20)], [1, 2, 3]), counted))
    begun, ended = counted.begun, counted.ended
    assert begun == ended
    loader.close()
    assert counted.begun == begun


@pytest.mark.parametrize("prefetch_mb, ahead", [(0, 1), (0.0104, 3), (1000, 8)])
def test_as_many_batches_are_decoded_ahead_as_fit_the_memory_given(split, fill, prefetch_mb, ahead):
    """A batch of two is 3,456 bytes."""
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield from shares([1, 2])

    loader = Loader(split, SIDE, 2, prefetch_mb)
    batches = loader.batches(endless(), fill)
    for used in range(1, 4):
        next(batches)
        assert len(taken) == used + ahead
    batches.close()
    loader.close()


def test_nothing_is_forked(split, fill):
    before = psutil.Process().children(recursive=True)
    loader = Loader(split, SIDE, 3, 1)
    batches = loader.batches(shares(*ROWS), fill)
    next(batches)
    assert psutil.Process().children(recursive=True) == before
    assert any(thread.name.startswith("decode") for thread in threading.enumerate())
    list(batches)
    loader.close()
    assert not any(thread.name.startswith("decode") for thread in threading.enumerate())


def test_the_time_spent_waiting_adds_up(loader, fill):
    assert loader.waited_s == 0
    list(loader.batches(shares(*ROWS), fill))
    first = loader.waited_s
    list(loader.batches(shares(*ROWS), fill))
    assert 0 < first < loader.waited_s
