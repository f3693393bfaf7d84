"""training.gradients and train.train_step: the loss and its gradients on one process."""

import mxnet as mx
import numpy as np
import pytest

from dist_ft.models import zoo
from dist_ft.train import train_step
from dist_ft.training import gradients


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
        x, labels = mx.nd.array(pixels, dtype="uint8"), mx.nd.array([0, 1, 2, 0, 1, 1])
        mask = mx.nd.array([1, 1, 1, 1, 0, 0])
        net = zoo.with_normalization(core)
        sums = train_step(net, trainer, (x, labels, mask), 4, clip_norm=clip_norm)
        results.append((core[1].weight.data().asnumpy(), sums.asnumpy()))
    for first, second in zip(*results):
        np.testing.assert_array_equal(first, second)
    assert (results[0][0] != 1).any()


def test_cross_entropy_equals_gluons():
    logits, labels = mx.nd.random.normal(shape=(7, 5)), mx.nd.array([0, 1, 2, 3, 4, 0, 1])
    tolerance = 8 * np.finfo(np.float32).eps  # five exponentials, a logarithm, a difference
    expected = mx.gluon.loss.SoftmaxCrossEntropyLoss()(logits, labels).asnumpy()
    losses = gradients.cross_entropy(logits, labels).asnumpy()
    np.testing.assert_allclose(losses, expected, rtol=tolerance, atol=tolerance)
    smoothed = mx.nd.one_hot(labels, 5) * 0.9 + 0.1 / 5
    gluon_loss = mx.gluon.loss.SoftmaxCrossEntropyLoss(sparse_label=False)
    losses = gradients.cross_entropy(logits, labels, 0.1).asnumpy()
    expected = gluon_loss(logits, smoothed).asnumpy()
    np.testing.assert_allclose(losses, expected, rtol=tolerance, atol=8 * tolerance)
