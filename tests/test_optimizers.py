"""models.optimizers: each optimizer resumes exactly from its arrays."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn

from dist_ft.conflicts import OPTIMIZERS_WITH_MOMENTUM
from dist_ft.models import optimizers, parameters
from dist_ft.recipe_settings import OPTIMIZERS


def build(name, momentum):
    """A small network with a frozen parameter in the middle, and its trainer."""
    with mx.name.NameManager():
        net = nn.HybridSequential()
        net.add(nn.Dense(6, in_units=5, activation="relu"), nn.BatchNorm(in_channels=6))
        net.add(nn.Dense(3, in_units=6), nn.Dense(2, in_units=3))
    mx.random.seed(0)
    net.initialize(mx.init.Xavier())
    net[2].weight.grad_req = "null"
    net[3].weight.lr_mult = 10.0
    optimizer = optimizers.build(name, momentum, wd=0.01)
    return net, mx.gluon.Trainer(net.collect_params(), optimizer, kvstore=None)


def train(net, trainer, steps):
    for step in steps:
        random = np.random.RandomState(step)
        x, y = (mx.nd.array(random.normal(size=(8, width))) for width in (5, 2))
        trainer.set_learning_rate(0.01 * (1 + step % 2))
        with autograd.record():
            loss = ((net(x) - y) ** 2).sum()
        loss.backward()
        trainer.step(8)


def arrays(net, trainer):
    return {**parameters.arrays(net), **optimizers.state_arrays(trainer)}


@pytest.mark.parametrize(
    "name, momentum",
    [(name, 0.0) for name in OPTIMIZERS] + [(name, 0.9) for name in OPTIMIZERS_WITH_MOMENTUM],
)
def test_a_run_resumed_twice_equals_one_that_mxnet_trains_without_a_stop(name, momentum):
    uninterrupted = build(name, momentum)
    start = uninterrupted[0][2].weight.data().asnumpy()
    train(*uninterrupted, range(5))
    expected = {key: array.asnumpy() for key, array in arrays(*uninterrupted).items()}
    np.testing.assert_array_equal(expected["2.weight"], start)  # frozen

    saved = {}
    for steps in (range(2), range(2, 3), range(3, 5)):
        resumed = build(name, momentum)
        optimizers.create_state(resumed[1], steps.start)
        if saved:
            for key, array in arrays(*resumed).items():
                array[:] = saved[key]
        train(*resumed, steps)
        saved = {key: array.asnumpy() for key, array in arrays(*resumed).items()}
    assert saved.keys() == expected.keys()
    for key, value in expected.items():
        assert np.isfinite(value).all(), key
        np.testing.assert_array_equal(saved[key], value, err_msg=key)


@pytest.mark.parametrize("momentum", [0.75, 0.0])
@pytest.mark.parametrize("name", OPTIMIZERS_WITH_MOMENTUM)
def test_momentum_and_weight_decay_reach_the_optimizer(name, momentum):
    optimizer = optimizers.build(name, momentum, 0.125)
    assert (optimizer.momentum, optimizer.wd) == (momentum, 0.125)
