"""witness: what is shown of a test is what numpy finds in the probabilities of its images."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboardX.summary import compute_curve

from dist_ft.data.image_folder import scan
from dist_ft.data.rank_batches import RankBatches, load_test_image
from dist_ft.data.transforms import InputSpec
from dist_ft.distributed.startup import World
from dist_ft.evaluation import observer
from dist_ft.evaluation.evaluator import evaluate
from dist_ft.evaluation.observer import Witness
from dist_ft.evaluation.precision_recall import NUM_THRESHOLDS, Thresholds
from dist_ft.models import zoo
from tests.networks import settled

VIEWS = InputSpec(32, 37, False)
CLASSES = 5


@pytest.fixture(scope="module")
def world():
    world = World("cpu", stall_timeout=300)
    yield world
    world.close()


@pytest.fixture(scope="module")
def pixels(tiny):
    split = scan(str(tiny)).test
    return np.stack([load_test_image(split, index, VIEWS) for index in range(len(split))])


@pytest.fixture(scope="module")
def core(pixels):
    return settled(CLASSES, pixels)


@pytest.fixture(scope="module")
def p(core, pixels):
    """(101, C): of each test image."""
    return zoo.with_normalization(core)(mx.nd.array(pixels, dtype="uint8")).softmax().asnumpy()


def a_feed(tiny, rank=0, size=1):
    return RankBatches(scan(str(tiny)), VIEWS, 0, rank, size, 2, 8.0)


@given(st.integers(2, 6), st.integers(0, 40), st.integers(0, 10**6), st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_counts_of_any_shares_add_up_to_the_curves_of_tensorboard(classes, images, seed, size):
    chance = np.random.RandomState(seed)
    labels = chance.randint(0, classes, images)
    p = chance.dirichlet(np.full(classes, 0.3), images).astype(np.float32)
    whole = Thresholds(classes)
    for rank in range(size):
        share = Thresholds(classes)
        share.add(labels[rank::size], p[rank::size])
        whole.counts += share.counts
    assert whole.counts.sum() == images * classes
    for label in range(classes):
        own = (labels == label).astype(float)
        expected = compute_curve(own, p[:, label].astype(np.float64), NUM_THRESHOLDS)
        np.testing.assert_allclose(np.stack(whole.curve(label)), expected, rtol=1e-12)


def test_a_probability_of_a_little_more_than_one_counts_as_one():
    thresholds = Thresholds(2)
    thresholds.add(np.array([0]), np.array([[1.0000001, 0.0]], np.float32))
    assert thresholds.curve(0).true_positives.tolist() == [1] * NUM_THRESHOLDS
    assert thresholds.curve(1).true_negatives.tolist() == [0] + [1] * (NUM_THRESHOLDS - 1)


def test_the_scores_of_the_two_halves_are_those_of_the_whole_network(tiny, core, world):
    feed, net = a_feed(tiny), zoo.with_normalization(core)
    scores, _ = Witness(core, net, CLASSES).test(feed, world)
    whole = evaluate(net, feed.test(), CLASSES, world)
    assert scores.loss_sum == whole.loss_sum
    assert (scores.confusion == whole.confusion).all() and scores.num_images == 101


def test_the_worst_mistakes_are_those_with_the_least_probability_of_the_label(tiny, core, p, world):
    feed = a_feed(tiny)
    labels = np.array(feed.dataset.test.labels)
    _, evidence = Witness(core, zoo.with_normalization(core), CLASSES).test(feed, world)
    of_label = np.where(p.argmax(axis=1) == labels, 2, p[np.arange(101), labels])
    assert (of_label < 2).sum() > observer.MOST_WORST
    expected = np.argsort(of_label, kind="stable")[: observer.MOST_WORST]
    assert [guess.index for guess in evidence.worst] == expected.tolist()
    for guess in evidence.worst:
        own, predicted = p[guess.index, guess.label], p[guess.index, guess.predicted]
        assert (guess.p_label, guess.p_taken) == pytest.approx((own, predicted), abs=1e-5)


def test_the_points_of_the_ranks_are_spread_evenly_over_the_images(tiny, core, world, monkeypatch):
    monkeypatch.setattr(observer, "MOST_POINTS", 10)
    found = []
    for rank in range(3):
        mine = Witness(core, zoo.with_normalization(core), CLASSES)
        mine.test(a_feed(tiny, rank, 3), world)
        assert all(point.guess.index % 3 == rank for point in mine.points)
        found += mine.points
    indices = sorted(point.guess.index for point in found)
    assert indices == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert {point.features.shape for point in found} == {(256,)}


def test_a_network_whose_head_is_no_dense_layer_has_no_points(tiny, world):
    core = zoo.build("mobilenetv2_0.25", CLASSES, VIEWS.side, seed=0)
    seen = Witness(core, zoo.with_normalization(core), CLASSES)
    scores, _ = seen.test(a_feed(tiny), world)
    assert scores.num_images == 101 and seen.points == []


def test_spread_takes_all_that_there_are_up_to_the_most():
    assert observer.spread(3, 10).tolist() == [0, 1, 2]
    assert observer.spread(0, 10).tolist() == []
    for num_images in (11, 99, 1000):
        taken = observer.spread(num_images, 10)
        assert len(taken) == 10 and set(np.diff(taken)) <= {num_images // 10, num_images // 10 + 1}
