"""data.sampler: every image once, equal shapes on all ranks, an order that never changes."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ft.data import sampler

SIZES = st.integers(1, 7)


@given(num_images=st.integers(0, 60), size=SIZES, seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_ranks_see_each_image_of_a_step_once_in_shares_of_one_shape(num_images, size, seed):
    step = sampler.epoch_order(seed, 0, 200)[:num_images]
    shares = [sampler.rank_share(step, rank, size) for rank in range(size)]
    seen = []
    for images, mask in shares:
        assert images.dtype == np.int64 and mask.dtype == np.float32
        assert images.shape == mask.shape == shares[0][0].shape
        assert set(mask) <= {0, 1} and mask[:-1].all()  # only the last row may be padding
        assert set(images) <= set(step)
        seen += list(images[mask == 1])
    assert sorted(seen) == sorted(step)


@given(num_images=st.integers(0, 60), size=SIZES)
@settings(max_examples=100, deadline=None)
def test_pairs_of_the_order_stay_on_one_rank(num_images, size):
    step = sampler.epoch_order(0, 0, 200)[:num_images]
    pairs = []
    for rank in range(size):
        images, mask = sampler.rank_share(step, rank, size, group=2)
        assert len(images) == 2 * np.ceil(np.ceil(num_images / 2) / size)
        for first in range(0, len(images), 2):
            pairs.append(tuple(images[first : first + 2][mask[first : first + 2] == 1]))
    expected = [tuple(step[first : first + 2]) for first in range(0, num_images, 2)]
    assert sorted(pair for pair in pairs if pair) == sorted(expected)


@st.composite
def labels_of_classes(draw):
    sizes = draw(st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any))
    return np.repeat(np.arange(len(sizes)), sizes)


@given(labels=labels_of_classes(), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_a_balanced_epoch_draws_every_class_equally_often_to_within_one(labels, seed, epoch):
    samples = sampler.balanced_order(seed, epoch, labels)
    assert samples.dtype == np.int64 and len(samples) == len(set(samples)) == len(labels)
    drawn = np.bincount(labels[samples % len(labels)], minlength=labels.max() + 1)
    drawn = drawn[np.bincount(labels) > 0]
    assert drawn.max() - drawn.min() <= 1
    for image in set(samples % len(labels)):  # its repetitions are counted from 0
        repetitions = samples[samples % len(labels) == image] // len(labels)
        assert sorted(repetitions) == list(range(len(repetitions)))


@given(labels=labels_of_classes(), first=st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_no_image_is_drawn_again_before_all_of_its_class_were(labels, first):
    """In any number of epochs from the first one."""
    drawn = np.zeros(len(labels), int)
    for epoch in range(first + 4):
        drawn += np.bincount(
            sampler.balanced_order(7, epoch, labels) % len(labels), None, len(labels)
        )
        for label in set(labels):
            of_class = drawn[labels == label]
            assert of_class.max() - of_class.min() <= 1


def test_balanced_epochs_differ_in_images_and_in_order():
    labels = np.repeat([0, 1], [190, 10])
    epochs = [sampler.balanced_order(0, epoch, labels) for epoch in range(20)]
    assert len({tuple(samples) for samples in epochs}) == 20
    large_class = [frozenset(s for s in samples % 200 if s < 190) for samples in epochs]
    assert len(set(large_class)) == 20
    first_half = np.mean([labels[samples[:100] % 200].mean() for samples in epochs])
    assert 0.4 < first_half < 0.6


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
    balanced = sampler.balanced_order(7, 3, [0] * 7 + [1] * 3)
    assert list(balanced) == [3, 1, 8, 2, 9, 0, 17, 19, 5, 7]


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
        draws(seed, epoch, index, 200, repetition)
        for draws in (sampler.image_draws, sampler.pair_draws)
        for seed in (0, 1, 2**32 - 1)
        for epoch in (0, 1, 2)
        for index in (0, 1, 2, 3, 12_345)
        for repetition in (0, 1, 2)
    ]
    numbers = np.concatenate(streams)
    assert len(np.unique(numbers)) == len(numbers)


@given(num_images=st.integers(0, 120), batch_size=st.integers(1, 50), size=SIZES)
@settings(max_examples=100, deadline=None)
def test_ranks_visit_a_split_in_order_and_each_image_once(num_images, batch_size, size):
    lengths = set()
    for rank in range(size):
        shares = list(sampler.sequential_shares(num_images, batch_size, rank, size))
        lengths.add(len(shares))
        visited = []
        for images, mask in shares:
            assert images.shape == mask.shape == (batch_size,)
            assert set(images[mask == 0]) <= {-1}
            visited += list(images[mask == 1])
        assert visited == list(range(rank, num_images, size))
    assert len(lengths) == 1
