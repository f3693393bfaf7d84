"""training.gradients and train.train_step: the loss and its gradients on one process."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from dist_ft.data.targets import TargetRule
from dist_ft.models import zoo
from dist_ft.train import train_step
from dist_ft.training import gradients
from tests.networks import device_batch
from tests.rounding import assert_close


@pytest.mark.parametrize("clip_norm", [0.0, 0.01])
def test_rows_with_a_mask_of_0_change_nothing(clip_norm):
    results = []
    for padding in (0, 255):
        pixels = np.random.RandomState(0).randint(0, 256, (6, 8, 8, 3)).astype(np.uint8)
        pixels[4:] = padding
        with mx.name.NameManager():
            core = mx.gluon.nn.HybridSequential()
            core.add(mx.gluon.nn.Flatten(), mx.gluon.nn.Dense(3))
        core.initialize(mx.init.One())
        trainer = mx.gluon.Trainer(core.collect_params(), "sgd", {"learning_rate": 0.1})
        batch = device_batch(pixels, [0, 1, 2, 0, 1, 1], [1, 1, 1, 1, 0, 0])
        sums = train_step(zoo.with_normalization(core), trainer, batch, 4, clip_norm)
        results.append((core[1].weight.data().asnumpy(), sums.asnumpy()))
    for first, second in zip(*results):
        np.testing.assert_array_equal(first, second)
    assert (results[0][0] != 1).any()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy_equals_gluons(label_smoothing):
    logits, labels = mx.nd.random.normal(shape=(7, 5)), np.array([0, 1, 2, 3, 4, 0, 1])
    targets = mx.nd.array(TargetRule(label_smoothing).apply(labels, np.ones(7), 5).values)
    losses = gradients.cross_entropy(logits, targets).asnumpy()
    gluon_loss = mx.gluon.loss.SoftmaxCrossEntropyLoss(sparse_label=False)
    smoothed = mx.nd.one_hot(mx.nd.array(labels), 5) * (1 - label_smoothing) + label_smoothing / 5
    expected = gluon_loss(logits, smoothed).asnumpy()
    # Five exponentials, a logarithm, a difference; five products and their sum.
    assert_close(losses, expected, num_terms=16)


def test_without_smoothing_the_loss_and_its_gradient_are_exactly_those_of_the_label():
    labels = np.array([0, 1, 2, 3, 4, 0, 1])
    logits = mx.nd.random.normal(scale=20, shape=(7, 5))
    logits.attach_grad()
    targets = mx.nd.array(TargetRule().apply(labels, np.ones(7), 5).values)
    results = []
    for loss in (
        lambda: -logits.log_softmax().pick(mx.nd.array(labels)),
        lambda: gradients.cross_entropy(logits, targets),
    ):
        with autograd.record():
            losses = loss()
        losses.backward()
        results.append((losses.asnumpy(), logits.grad.asnumpy()))
    for expected, actual in zip(*results):
        np.testing.assert_array_equal(actual, expected)
