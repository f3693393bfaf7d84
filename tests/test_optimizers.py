"""models.optimizers: each optimizer resumes from a checkpoint exactly."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn

from dist_ft.config import OPTIMIZERS
from dist_ft.conflicts import OPTIMIZERS_WITH_MOMENTUM
from dist_ft.models import optimizers, parameters
from dist_ft.training import checkpoint
from dist_ft.training.state import TrainingState
from tests.rounding import assert_close

CASES = [(name, 0.0) for name in OPTIMIZERS] + [(name, 0.9) for name in OPTIMIZERS_WITH_MOMENTUM]


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


def all_arrays(net, trainer):
    arrays = {**parameters.arrays(net), **optimizers.state_arrays(trainer)}
    return {name: array.asnumpy() for name, array in arrays.items()}


def save_and_resume(folder, name, momentum, net, trainer, step):
    """A new network and trainer with the arrays of a checkpoint."""
    arrays = parameters.arrays(net), optimizers.state_arrays(trainer)
    checkpoint.save(folder, TrainingState(step=step), *arrays, keep=1)
    net, trainer = build(name, momentum)
    optimizers.create_state(trainer, step)
    saved = checkpoint.latest(folder)
    for loaded, arrays in (
        (saved.net_arrays(), parameters.arrays(net)),
        (saved.trainer_arrays(), optimizers.state_arrays(trainer)),
    ):
        assert set(loaded) == set(arrays)
        for key, array in arrays.items():
            array[:] = loaded[key]
    return net, trainer


def assert_equal(actual, expected):
    assert set(actual) == set(expected)
    for key in expected:
        assert np.isfinite(expected[key]).all(), key
        np.testing.assert_array_equal(actual[key], expected[key], err_msg=key)


@pytest.mark.parametrize("name, momentum", CASES)
def test_a_resumed_run_equals_an_uninterrupted_one(name, momentum, tmp_path):
    net, trainer = build(name, momentum)
    optimizers.create_state(trainer, 0)
    train(net, trainer, range(5))
    uninterrupted = all_arrays(net, trainer)

    net, trainer = build(name, momentum)
    optimizers.create_state(trainer, 0)
    train(net, trainer, range(2))
    net, trainer = save_and_resume(tmp_path, name, momentum, net, trainer, 2)
    train(net, trainer, range(2, 3))
    net, trainer = save_and_resume(tmp_path, name, momentum, net, trainer, 3)
    train(net, trainer, range(3, 5))
    assert_equal(all_arrays(net, trainer), uninterrupted)


@pytest.mark.parametrize("name, momentum", CASES)
def test_state_created_in_advance_does_not_change_the_training(name, momentum):
    net, trainer = build(name, momentum)
    optimizers.create_state(trainer, 0)
    start = all_arrays(net, trainer)
    train(net, trainer, range(4))
    plain = build(name, momentum)
    train(*plain, range(4))
    trained = all_arrays(net, trainer)
    assert_equal(trained, all_arrays(*plain))
    assert set(trained) == set(start)
    assert (trained["2.weight"] == start["2.weight"]).all()  # frozen
    assert (trained["0.weight"] != start["0.weight"]).any()


def test_momentum_and_weight_decay_reach_the_optimizer():
    for name in OPTIMIZERS_WITH_MOMENTUM:
        built = optimizers.build(name, 0.75, 0.125)
        assert (built.momentum, built.wd) == (0.75, 0.125)
        assert optimizers.build(name, 0.0, 0.0).momentum == 0.0


def test_sgd_subtracts_the_gradient_and_the_weight_decay():
    net = nn.Dense(1, in_units=2, use_bias=False)
    net.initialize(mx.init.One())
    optimizer = optimizers.build("sgd", momentum=0.0, wd=0.5)
    trainer = mx.gluon.Trainer(net.collect_params(), optimizer, kvstore=None)
    optimizers.create_state(trainer, 0)
    trainer.set_learning_rate(0.1)
    with autograd.record():
        net(mx.nd.array([[3, 4]])).backward()
    trainer.step(1)
    expected = [[1 - 0.1 * (3 + 0.5), 1 - 0.1 * (4 + 0.5)]]
    assert_close(net.weight.data().asnumpy(), expected, num_terms=3)
