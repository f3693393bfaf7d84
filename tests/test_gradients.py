"""training.gradients and train.train_step: the loss and its gradients on one process."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from dist_ft.data.targets import TargetRule
from dist_ft.models import batch_norm, optimizers, parameters, zoo
from dist_ft.models.loss_scale import DynamicLossScale
from dist_ft.models.mxnet_internals import parameters_by_path
from dist_ft.train import train_step
from dist_ft.training import gradients
from tests.networks import device_batch, random_pixels, small_network
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


@pytest.mark.parametrize("model", ["small", "mobilenetv2_0.25"])
def test_the_gradients_of_micro_batches_add_up_to_those_of_the_batch(model):
    """In two steps, whose gradients must not add up. BatchNorm is frozen."""
    pixels = random_pixels(7)
    batch = device_batch(pixels, [0, 1, 2, 0, 1, 1, 2], [1, 1, 1, 1, 1, 1, 0], 0.1)
    results = []
    for micro_batch in (0, 7, 3, 1):
        core = small_network() if model == "small" else zoo.build(model, 3, 32, seed=0)
        batch_norm.freeze(batch_norm.layers(core))
        parameters.set_lr_multipliers(core, 10.0, 1.0, freeze=("gamma",))
        net = zoo.with_normalization(core)
        for _ in range(2):
            sums = gradients.backward(net, batch, 2.0, micro_batch)
        grads = {
            path: parameter.grad().asnumpy()
            for path, parameter in parameters_by_path(core).items()
            if parameter.grad_req != "null"
        }
        results.append({**grads, "sums": sums.asnumpy()})
    expected, *others = results
    for actual in others:
        assert actual.keys() == expected.keys() and len(expected) > 3
        for path in expected:
            # A gradient is a sum over the images and their pixels.
            assert_close(actual[path], expected[path], num_terms=7 * 32 * 32)


def test_a_step_in_micro_batches_is_clipped_and_scaled_like_a_whole_one():
    results = []
    for micro_batch in (0, 4):
        net = small_network()
        trainer = mx.gluon.Trainer(net.collect_params(), optimizers.build("sgd", 0.9, 0.01))
        trainer.set_learning_rate(0.5)
        batch_norm.freeze(batch_norm.layers(net))
        whole, scale = zoo.with_normalization(net), DynamicLossScale(2.0**16)
        for step in range(2):
            batch = device_batch(random_pixels(seed=step), [0, 1, 2, 0, 1, 1], [1] * 6)
            sums = train_step(whole, trainer, batch, 6, 0.1, scale, micro_batch)
        results.append([*(a.asnumpy() for a in parameters.arrays(net).values()), sums.asnumpy()])
    for actual, expected in zip(*results):
        assert_close(actual, expected, num_terms=6 * 32 * 32)


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
