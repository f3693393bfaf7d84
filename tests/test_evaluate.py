"""evaluate: scores equal to numpy's own, whatever the batches; nothing lost on the way."""

from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ft.data import sampler
from dist_ft.data.loader import Batch
from dist_ft.distributed.startup import World
from dist_ft.evaluation.evaluator import DelayedReader, Scores, evaluate

CLASSES, SIDE = 7, 4


@pytest.fixture(scope="module")
def world():
    world = World("cpu", stall_timeout=300)
    yield world
    world.close()


@pytest.fixture(scope="module")
def data():
    """(101 images, labels, a net of pixels to logits, the logits in numpy)."""
    chance = np.random.RandomState(0)
    x = chance.randint(0, 256, (101, SIDE, SIDE, 3)).astype(np.uint8)
    labels = chance.randint(0, CLASSES, 101).astype(np.int32)
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.HybridLambda(lambda F, x: F.cast(x, "float32") / 255))
    net.add(mx.gluon.nn.Dense(CLASSES, in_units=SIDE * SIDE * 3))
    net.initialize(mx.init.Normal(1))
    weight, bias = (p.data().asnumpy().astype(np.float64) for p in net[1].params.values())
    logits = (x / 255).reshape(101, -1) @ weight.T + bias
    return SimpleNamespace(x=x, labels=labels, net=net, logits=logits)


def batches(data, batch_size, rank=0, size=1):
    for indices, mask in sampler.sequential_shares(len(data.x), batch_size, rank, size):
        labels = np.where(mask > 0, data.labels[indices], 0)
        yield Batch(data.x[indices], labels, mask, indices)


def by_numpy(logits, labels):
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    order = np.argsort(-logits, axis=1)
    confusion = np.zeros((CLASSES, CLASSES), np.int64)
    for label, row in zip(labels, order):
        confusion[label, row[0]] += 1
    top5 = sum(label in row[:5] for label, row in zip(labels, order))
    return confusion, top5, -log_p[np.arange(len(labels)), labels].sum()


def test_scores_are_those_of_a_direct_computation(data, world):
    scores = evaluate(data.net, batches(data, 10), CLASSES, world)
    confusion, top5, loss_sum = by_numpy(data.logits, data.labels)
    assert scores.num_images == 101
    assert (scores.confusion == confusion).all()
    assert scores.correct == np.trace(confusion)
    assert scores.correct_top5 == top5
    assert scores.loss_sum == pytest.approx(loss_sum, rel=1e-5)
    assert 0 < scores.correct < scores.correct_top5 < 101


@pytest.mark.parametrize("batch_size", [1, 7, 50, 101, 200])
def test_scores_do_not_depend_on_the_batch_size(data, world, batch_size):
    scores = evaluate(data.net, batches(data, batch_size), CLASSES, world)
    expected = evaluate(data.net, batches(data, 20), CLASSES, world)
    assert scores.num_images == expected.num_images == 101
    assert (scores.confusion == expected.confusion).all()
    assert scores.correct_top5 == expected.correct_top5
    assert scores.loss == pytest.approx(expected.loss, rel=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_the_shards_of_any_number_of_ranks_add_up_to_the_same_integers(data, world, size):
    parts = [evaluate(data.net, batches(data, 8, r, size), CLASSES, world) for r in range(size)]
    confusion, top5, loss_sum = by_numpy(data.logits, data.labels)
    assert (sum(part.confusion for part in parts) == confusion).all()
    assert sum(part.correct for part in parts) == np.trace(confusion)
    assert sum(part.correct_top5 for part in parts) == top5
    assert sum(part.num_images for part in parts) == 101
    assert sum(part.loss_sum for part in parts) == pytest.approx(loss_sum, rel=1e-5)


def test_masked_rows_count_nowhere(data, world):
    def with_rubbish():
        for batch in batches(data, 10):
            batch.x[batch.mask == 0] = 255
            batch.labels[batch.mask == 0] = CLASSES - 1
            batch.mask[0] = 0  # an unreadable file
            yield batch

    scores = evaluate(data.net, with_rubbish(), CLASSES, world)
    rest = np.arange(101) % 10 != 0
    confusion, top5, loss_sum = by_numpy(data.logits[rest], data.labels[rest])
    assert scores.num_images == rest.sum() == 90
    assert (scores.confusion == confusion).all()
    assert scores.correct_top5 == top5
    assert scores.loss_sum == pytest.approx(loss_sum, rel=1e-5)


def test_no_batches_give_no_scores(data, world):
    scores = evaluate(data.net, [], CLASSES, world)
    assert (scores.num_images, scores.accuracy, scores.accuracy_top5, scores.loss) == (0, 0, 0, 0)
    assert scores.confusion.sum() == 0


def test_an_image_counts_among_the_top_five_by_the_classes_that_beat_its_own(world):
    """Logits that fall from class 0 to class 6: a label is its own rank."""
    falling = mx.nd.arange(CLASSES, 0, -1).reshape((1, CLASSES))

    def net(x):
        return mx.nd.broadcast_axis(falling, axis=0, size=x.shape[0])

    x = np.zeros((CLASSES, SIDE, SIDE, 3), np.uint8)
    labels = np.arange(CLASSES, dtype=np.int32)
    batch = Batch(x, labels, np.ones(CLASSES, np.float32), labels)
    scores = evaluate(net, [batch], CLASSES, world)
    assert (scores.correct, scores.correct_top5) == (1, 5)
    assert scores.confusion[:, 0].tolist() == [1] * CLASSES


def test_scores_add_and_divide():
    scores = Scores.none(3)
    full = np.array([1.0, 1.0])
    scores.add(
        np.array([0, 1]), np.array([0.0, 2.0]), np.array([0.0, 2.0]), np.array([0.5, 1.5]), full
    )
    half = np.array([1.0, 0.0])
    scores.add(
        np.array([2, 0]), np.array([2.0, 0.0]), np.array([5.0, 0.0]), np.array([1.0, 9.0]), half
    )
    assert (scores.num_images, scores.correct, scores.correct_top5) == (3, 2, 2)
    assert scores.loss == pytest.approx(1.0)
    assert scores.accuracy == scores.accuracy_top5 == pytest.approx(2 / 3)
    assert scores.confusion.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]


def test_one_world_keeps_scores_as_they_are(world):
    counts = np.arange(9, dtype=np.int64).reshape(3, 3) + 2**40
    scores = Scores(2**50 + 1, 2**49 + 1, 2**48 + 1, 0.1, counts)
    found = scores.over_ranks(world)
    assert (found.num_images, found.correct, found.correct_top5, found.loss_sum) == (
        *(2**50 + 1, 2**49 + 1, 2**48 + 1, 0.1),
    )
    assert (found.confusion == counts).all()
    assert found.confusion.dtype == np.int64


@given(num=st.integers(0, 12), num_steps=st.integers(0, 4))
@settings(max_examples=30, deadline=None)
def test_what_is_read_late_comes_in_order_and_whole(num, num_steps):
    behind, came = DelayedReader(num_steps), []
    for number in range(num):
        for array, tag in behind.push(mx.nd.full((2,), number), f"tag {number}"):
            came.append((array.tolist(), tag))
        assert len(came) == max(0, number + 1 - num_steps)
    came += [(array.tolist(), tag) for array, tag in behind.rest()]
    assert came == [([number, number], f"tag {number}") for number in range(num)]
    assert list(behind.rest()) == []
