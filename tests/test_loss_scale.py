"""models.loss_scale: a scaled step equals an unscaled one, and no step is skipped."""

import mxnet as mx
import numpy as np
import pytest

from dist_ft.models import optimizers, parameters, zoo
from dist_ft.models.loss_scale import UNSCALED, DynamicLossScale
from dist_ft.train import train_step
from tests.networks import device_batch, random_pixels
from tests.rounding import assert_close

LARGE = 3e14  # magnitude of weights that makes gradients large


def one_step(scale, clip_norm=0.0, magnitude=3.0):
    """The parameters after one training step, and its sums of losses and correct predictions."""
    mx.random.seed(0)
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Flatten(), mx.gluon.nn.Dense(4, activation="relu", in_units=192))
    net.add(mx.gluon.nn.Dense(3, in_units=4))
    net.initialize(mx.init.Xavier(magnitude=magnitude))
    trainer = mx.gluon.Trainer(net.collect_params(), optimizers.build("sgd", 0.9, 0.01))
    trainer.set_learning_rate(0.5)
    batch = device_batch(random_pixels(side=8), [0, 1, 2, 0, 1, 1], [1, 1, 1, 1, 1, 0], 0.1)
    sums = train_step(zoo.with_normalization(net), trainer, batch, 5, clip_norm, scale)
    return [array.asnumpy() for array in (*parameters.arrays(net).values(), sums)]


@pytest.mark.parametrize(
    "value, clip_norm, magnitude",
    [(2.0**16, 0.0, 3.0), (2.0**112, 0.0, 3.0), (2.0**112, 0.0, LARGE), (2.0**16, 0.01, 3.0)],
)
def test_a_scaled_step_equals_an_unscaled_one(value, clip_norm, magnitude):
    """Scaling by a power of two changes the exponent only, unless a number becomes subnormal."""
    scale = DynamicLossScale(value)
    scaled, unscaled = (one_step(scale_, clip_norm, magnitude) for scale_ in (scale, UNSCALED))
    for actual, expected in zip(scaled, unscaled):
        assert_close(actual, expected, num_terms=8)
    assert scale.good_steps == 1


def test_the_scale_is_halved_until_the_gradients_are_finite_and_stays():
    scale = DynamicLossScale(2.0**112)
    one_step(scale, magnitude=LARGE)
    reached = scale.value
    assert 2.0**80 < reached < 2.0**112
    one_step(scale, magnitude=LARGE)
    assert (scale.value, scale.good_steps) == (reached, 2)


def test_the_scale_is_doubled_after_enough_good_steps_up_to_its_maximum(monkeypatch):
    monkeypatch.setattr(DynamicLossScale, "GROWTH_INTERVAL", 3)
    scale, values = DynamicLossScale(2.0**22), []
    for _ in range(12):
        assert scale.update([mx.nd.ones(3)])
        values.append(scale.value)
    assert values[1:6:3] == [2.0**22, 2.0**23]
    assert values[-1] == DynamicLossScale.MAX == 2.0**24


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_gradients_that_no_scale_makes_finite_are_accepted_at_last(value):
    """The loss of that step is not finite either, and the run stops for that reason."""
    scale, num_updates = DynamicLossScale(2.0**16), 1
    while not scale.update([mx.nd.ones(3), mx.nd.array([1, value])]):
        num_updates += 1
    assert (scale.value, num_updates) == (1.0, 17)
