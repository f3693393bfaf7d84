"""The evaluator's results equal a direct computation with numpy, for any batches and ranks."""

from __future__ import annotations

from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboardX.summary import compute_curve

from dist_ft.data import sampler
from dist_ft.data.loader import Batch
from dist_ft.evaluation.delayed_reader import DelayedReader
from dist_ft.evaluation.evaluator import Evaluator, evaluate
from dist_ft.evaluation.metrics import (
    NUM_THRESHOLDS,
    FeatureSample,
    Outputs,
    PrecisionRecall,
    Scores,
)
from dist_ft.evaluation.predictions import Predictions
from dist_ft.models import zoo
from tests.networks import normalized_mobilenet
from tests.rounding import EPSILON, assert_close

NUM_IMAGES, CLASSES, SIDE = 101, 7, 4
LOSS_TOLERANCE = SIDE * SIDE * 3 * EPSILON  # relative: terms of a logit


@pytest.fixture(scope="module")
def data():
    """Images, labels, a linear network from pixels to logits, and the logits by numpy."""
    random = np.random.RandomState(0)
    x = random.randint(0, 256, (NUM_IMAGES, SIDE, SIDE, 3)).astype(np.uint8)
    labels = random.randint(0, CLASSES, NUM_IMAGES).astype(np.int32)
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.HybridLambda(lambda F, x: F.cast(x, "float32") / 255))
    net.add(mx.gluon.nn.Dense(CLASSES, in_units=SIDE * SIDE * 3))
    net.initialize(mx.init.Normal(1))
    weight, bias = (p.data().asnumpy().astype(np.float64) for p in net[1].params.values())
    logits = (x / 255).reshape(NUM_IMAGES, -1) @ weight.T + bias
    return SimpleNamespace(x=x, labels=labels, net=net, logits=logits)


def batches(data, batch_size, rank=0, size=1):
    for indices, mask in sampler.sequential_shares(len(data.x), batch_size, rank, size):
        labels = np.where(mask > 0, data.labels[indices], 0)
        yield Batch(data.x[indices], labels, mask, np.where(mask > 0, indices, -1))


def check_scores(scores, logits, labels):
    order = np.argsort(-logits, axis=1)
    confusion = np.zeros((CLASSES, CLASSES), np.int64)
    for label, row in zip(labels, order):
        confusion[label, row[0]] += 1
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert scores.num_images == len(labels)
    assert (scores.confusion == confusion).all()
    assert scores.correct == np.trace(confusion)
    assert scores.correct_top5 == sum(label in row[:5] for label, row in zip(labels, order))
    loss_sum = -log_p[np.arange(len(labels)), labels].sum()
    assert scores.loss_sum == pytest.approx(loss_sum, rel=LOSS_TOLERANCE)


@pytest.mark.parametrize("batch_size, size", [(1, 1), (101, 1), (200, 1), (8, 2), (7, 3), (10, 7)])
def test_the_results_of_any_batches_and_ranks_are_those_of_numpy(data, world, batch_size, size):
    predictions = [Predictions() for _ in range(size)]
    parts = [
        evaluate(data.net, batches(data, batch_size, rank, size), CLASSES, world, predictions[rank])
        for rank in range(size)
    ]
    total = Scores(
        sum(part.num_images for part in parts),
        sum(part.correct for part in parts),
        sum(part.correct_top5 for part in parts),
        sum(part.loss_sum for part in parts),
        sum(part.confusion for part in parts),
    )
    check_scores(total, data.logits, data.labels)
    table = np.sort(np.concatenate([part.table for part in predictions]), order="index")
    assert table["index"].tolist() == list(range(NUM_IMAGES))
    assert (table["label"] == data.labels).all()
    assert (table["predicted"] == data.logits.argmax(axis=1)).all()
    probabilities = np.exp(data.logits) / np.exp(data.logits).sum(axis=1, keepdims=True)
    scale = 2 * LOSS_TOLERANCE * np.abs(data.logits).max()
    np.testing.assert_allclose(table["p_predicted"], probabilities.max(axis=1), rtol=scale)
    np.testing.assert_allclose(table["loss"], -np.log(table["p_label"]))


def test_padding_and_unreadable_images_are_not_counted(data, world):
    def with_bad_rows():
        for batch in batches(data, 10):
            batch.x[batch.mask == 0] = 255
            batch.labels[batch.mask == 0] = CLASSES - 1
            batch.mask[0] = 0  # an unreadable file
            yield batch

    predictions = Predictions()
    scores = evaluate(data.net, with_bad_rows(), CLASSES, world, predictions)
    readable = np.arange(NUM_IMAGES) % 10 != 0
    check_scores(scores, data.logits[readable], data.labels[readable])
    assert predictions.table["index"].tolist() == np.flatnonzero(readable).tolist()
    assert [p.index for p in predictions.at(np.array([3, 51]))] == [3, 51]


def test_no_batches_give_empty_results(data, world):
    predictions = Predictions()
    scores = evaluate(data.net, [], CLASSES, world, predictions)
    assert (scores.num_images, scores.accuracy, scores.accuracy_top5, scores.loss) == (0, 0, 0, 0)
    assert scores.confusion.sum() == 0
    assert predictions.worst(3) == predictions.least_certain(3) == []


def test_large_counts_are_reduced_exactly(world):
    counts = [2**50 + 1, 2**49 + 1, 2**48 + 1]
    confusion = np.arange(9, dtype=np.int64).reshape(3, 3) + 2**40
    scores = Scores(*counts, 0.1, confusion.copy())
    scores.reduce(world)
    assert [scores.num_images, scores.correct, scores.correct_top5] == counts
    assert scores.loss_sum == 0.1
    assert (scores.confusion == confusion).all() and scores.confusion.dtype == np.int64


def test_the_worst_mistakes_have_the_smallest_probability_of_the_label(data, world):
    predictions = Predictions()
    evaluate(data.net, batches(data, 8), CLASSES, world, predictions)
    table = predictions.table
    wrong = table[table["predicted"] != table["label"]]
    worst, least_certain = predictions.worst(16), predictions.least_certain(16)
    assert [p.p_label for p in worst] == np.sort(wrong["p_label"])[:16].tolist()
    assert [p.p_predicted for p in least_certain] == np.sort(table["p_predicted"])[:16].tolist()


@given(st.integers(2, 6), st.integers(0, 40), st.integers(0, 10**6), st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_curves_of_any_shards_add_up_to_those_of_tensorboard(classes, num_images, seed, size):
    random = np.random.RandomState(seed)
    labels = random.randint(0, classes, num_images)
    probabilities = random.dirichlet(np.full(classes, 0.3), num_images).astype(np.float32)
    total = PrecisionRecall(classes)
    for rank in range(size):
        shard = PrecisionRecall(classes)
        shard.add_probabilities(labels[rank::size], probabilities[rank::size])
        total.counts += shard.counts
    for label in range(classes):
        of_label = probabilities[:, label].astype(np.float64)
        expected = compute_curve((labels == label).astype(float), of_label, NUM_THRESHOLDS)
        np.testing.assert_allclose(np.stack(total.curve(label)), expected, rtol=1e-12)


def test_a_probability_that_rounding_makes_exceed_one_counts_as_one():
    counts = PrecisionRecall(2)
    counts.add_probabilities(np.array([0]), np.array([[1.0000001, 0.0]], np.float32))
    assert counts.curve(0).true_positives.tolist() == [1] * NUM_THRESHOLDS
    assert counts.curve(1).true_negatives.tolist() == [0] + [1] * (NUM_THRESHOLDS - 1)


@pytest.fixture(scope="module")
def images():
    """Labeled images of 32 px, and a network that distinguishes them."""
    random = np.random.RandomState(0)
    x = random.randint(0, 256, (30, 1, 1, 3)) + random.randint(0, 256, (30, 32, 32, 3))
    x = (x // 2).astype(np.uint8)
    labels = random.randint(0, CLASSES, 30).astype(np.int32)
    return SimpleNamespace(x=x, labels=labels, core=normalized_mobilenet(CLASSES, x))


@pytest.mark.parametrize("is_cached", [False, True])
def test_the_evaluator_returns_scores_and_features_of_the_network(images, world, is_cached):
    """From pixels, and from features as a run with cached features has them."""
    below, head = zoo.feature_extractor(images.core), zoo.head(images.core)
    net = zoo.with_normalization(images.core)
    features = below(mx.nd.array(images.x, dtype="uint8"))
    inputs = SimpleNamespace(x=features.asnumpy(), labels=images.labels) if is_cached else images
    evaluation = Evaluator(images.core, net, CLASSES).evaluate(batches(inputs, 8), 30, world)
    scores = evaluate(net, batches(images, 8), CLASSES, world)
    assert (evaluation.scores.confusion == scores.confusion).all()
    assert evaluation.scores.num_images == 30
    assert evaluation.precision_recall.counts.sum() == 30 * CLASSES
    assert evaluation.features.indices.tolist() == list(range(30))
    # The last layer maps the collected features to the logits.
    again = head(mx.nd.array(evaluation.features.features)).asnumpy()
    assert_close(again, head(features).asnumpy(), num_terms=28 * 256)


def test_a_network_whose_head_is_not_a_dense_layer_has_no_features(images, world):
    core = zoo.build("mobilenetv2_0.25", CLASSES, 32, seed=0)
    evaluator = Evaluator(core, zoo.with_normalization(core), CLASSES)
    evaluation = evaluator.evaluate(batches(images, 8), 30, world)
    assert evaluation.scores.num_images == 30
    assert len(evaluation.features.indices) == len(evaluation.features.features) == 0


@given(st.integers(0, 200), st.integers(1, 20))
@settings(deadline=None)
def test_features_are_sampled_evenly_over_the_images(num_images, max_images):
    sample = FeatureSample(num_images, max_images)
    order = np.random.RandomState(0).permutation(num_images)
    for indices in np.array_split(order, 7):
        features = np.tile(indices[:, None].astype(np.float32), (1, 4))
        zeros = np.zeros(len(indices), np.int64)
        sample.add(Outputs(indices, zeros, np.zeros((len(indices), 2)), features))
    assert len(sample.indices) == min(num_images, max_images)
    assert (sample.features == sample.indices[:, None]).all()
    gap = max(1, num_images // max_images)
    assert set(np.diff(sample.indices)) <= {gap, gap + (num_images > max_images)}


@given(num=st.integers(0, 12), num_steps=st.integers(0, 4))
@settings(max_examples=30, deadline=None)
def test_delayed_arrays_arrive_complete_and_in_order(num, num_steps):
    reader, arrived = DelayedReader(num_steps), []
    for number in range(num):
        for array, tag in reader.push(mx.nd.full((2,), number), f"tag {number}"):
            arrived.append((array.tolist(), tag))
        assert len(arrived) == max(0, number + 1 - num_steps)
    arrived += [(array.tolist(), tag) for array, tag in reader.rest()]
    assert arrived == [([number, number], f"tag {number}") for number in range(num)]
