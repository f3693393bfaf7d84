"""data.sampler: every image once, equal shapes on all ranks, an order that never changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ft.data import sampler

RANKS = (1, 2, 3, 4, 5)


def shares_of_a_step(images, size):
    return [sampler.rank_share(images, rank, size) for rank in range(size)]


@pytest.mark.parametrize("size", RANKS)
def test_the_ranks_see_every_image_of_a_step_once(size):
    for num_images in range(51):
        step = sampler.epoch_order(0, 3, num_images)
        seen = [
            image for images, mask in shares_of_a_step(step, size) for image in images[mask == 1]
        ]
        assert sorted(seen) == list(range(num_images))


@given(num_images=st.integers(1, 60), size=st.sampled_from(RANKS), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_shares_of_a_step_have_one_shape_and_are_padded_with_images_of_the_step(
    num_images, size, seed
):
    step = sampler.epoch_order(seed, 0, 200)[:num_images]
    shares = shares_of_a_step(step, size)
    assert len({images.shape for images, _ in shares}) == 1
    for images, mask in shares:
        assert images.dtype == np.int64 and mask.dtype == np.float32
        assert images.shape == mask.shape
        assert set(mask) <= {0, 1}
        assert mask[:-1].all()  # only the last row may be padding
        assert set(images) <= set(step)


def test_a_step_without_images_gives_shares_without_rows():
    for images, mask in shares_of_a_step(np.arange(0), 3):
        assert len(images) == len(mask) == 0


@given(seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 500), num_images=st.integers(0, 300))
@settings(max_examples=50, deadline=None)
def test_the_order_is_a_permutation(seed, epoch, num_images):
    order = sampler.epoch_order(seed, epoch, num_images)
    assert sorted(order) == list(range(num_images))


def test_the_order_differs_between_epochs_and_between_seeds():
    orders = {
        tuple(sampler.epoch_order(seed, epoch, 40)) for seed in range(10) for epoch in range(10)
    }
    assert len(orders) == 100


def test_the_order_never_changes():
    """Checkpoints are resumed by later versions, so these literals must stay."""
    assert list(sampler.epoch_order(0, 0, 10)) == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert list(sampler.epoch_order(7, 3, 10)) == [2, 0, 7, 3, 5, 4, 8, 9, 1, 6]
    assert list(sampler.epoch_order(2**32 - 1, 19, 10)) == [6, 0, 7, 1, 8, 3, 2, 9, 5, 4]
    draws = [0.8352497807898419, 0.8215767775704617, 0.9116126811764995]
    assert list(sampler.image_draws(7, 3, 41, 3)) == draws


def test_an_epoch_mixes_a_data_set_that_is_sorted_by_class():
    classes = sampler.epoch_order(0, 0, 1000) // 200  # five classes of 200 images
    first_batch = np.bincount(classes[:200], minlength=5)
    assert first_batch.min() >= 20


def test_the_draws_of_images_are_uniform():
    draws = np.concatenate([sampler.image_draws(1, 2, index, 41) for index in range(500)])
    assert draws.dtype == np.float64
    assert draws.min() >= 0 and draws.max() < 1
    counts = np.histogram(draws, bins=10, range=(0, 1))[0]
    standard_error = np.sqrt(0.1 * 0.9 / len(draws))
    assert abs(counts / len(draws) - 0.1).max() < 5 * standard_error


def test_the_draws_of_an_image_depend_on_seed_epoch_and_index_only():
    expected = sampler.image_draws(3, 4, 5, 41)
    np.random.seed(0)
    np.random.rand(7)
    sampler.image_draws(3, 4, 6, 41)
    assert list(sampler.image_draws(3, 4, 5, 41)) == list(expected)
    assert list(sampler.image_draws(3, 4, 5, 9)) == list(expected[:9])


def test_no_two_random_streams_overlap():
    streams = [
        sampler.image_draws(seed, epoch, index, 200)
        for seed in (0, 1, 2**32 - 1)
        for epoch in (0, 1, 2)
        for index in (0, 1, 2, 3, 12_345)
    ]
    numbers = np.concatenate(streams)
    assert len(np.unique(numbers)) == len(numbers)


@pytest.mark.parametrize("size", (1, 2, 3, 4, 7))
def test_sequential_shares_contain_every_image_once(size):
    for num_images in (*range(0, 40), 101):
        for batch_size in (1, 8, 50):
            ranks = [
                list(sampler.sequential_shares(num_images, batch_size, rank, size))
                for rank in range(size)
            ]
            assert len({len(shares) for shares in ranks}) == 1
            seen = []
            for images, mask in (share for shares in ranks for share in shares):
                assert images.shape == mask.shape == (batch_size,)
                assert ((images >= 0) == (mask == 1)).all()
                assert set(images[mask == 0]) <= {-1}
                seen += list(images[mask == 1])
            assert sorted(seen) == list(range(num_images))


def test_a_single_rank_visits_the_images_in_their_order():
    images = np.concatenate([images for images, _ in sampler.sequential_shares(23, 10, 0, 1)])
    assert list(images) == [*range(23), *[-1] * 7]
