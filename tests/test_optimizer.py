"""optimizer: each of them stopped and gone on with, through a checkpoint, to the last bit."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn

from dist_ft.config import OPTIMIZERS, WITH_MOMENTUM
from dist_ft.models import optimizers
from dist_ft.training import checkpoint

CASES = [*((name, 0.0) for name in OPTIMIZERS), *((name, 0.9) for name in WITH_MOMENTUM)]


def build(name, momentum, wd=0.01):
    with mx.name.NameManager():
        net = nn.HybridSequential()
        net.add(nn.Dense(6, in_units=5, activation="relu"), nn.BatchNorm(in_channels=6))
        net.add(nn.Dense(3, in_units=6), nn.Dense(2, in_units=3))
    mx.random.seed(0)
    net.initialize(mx.init.Xavier())
    net[2].weight.grad_req = "null"  # a frozen one, in the middle
    net[3].weight.lr_mult = 10.0
    trainer = mx.gluon.Trainer(
        net.collect_params(), optimizers.build(name, momentum, wd), kvstore=None
    )
    return net, trainer


def train(net, trainer, steps):
    for step in steps:
        chance = np.random.RandomState(step)
        x, y = (mx.nd.array(chance.normal(size=(8, width))) for width in (5, 2))
        trainer.set_learning_rate(0.01 * (1 + step % 2))
        with autograd.record():
            loss = ((net(x) - y) ** 2).sum()
        loss.backward()
        trainer.step(8)


def contents(net, trainer):
    named = {**net._collect_params_with_prefix()}
    arrays = {**{k: p.data() for k, p in named.items()}, **optimizers.arrays(trainer)}
    return {name: array.asnumpy() for name, array in arrays.items()}


def resumed(path, name, momentum, step):
    """A fresh net and trainer with what a checkpoint holds."""
    net, trainer = build(name, momentum)
    optimizers.prepare(trainer, step)
    found = checkpoint.latest(path)
    net.load_parameters(str(found.path / checkpoint.NET))
    saved, arrays = found.trainer_arrays(), optimizers.arrays(trainer)
    assert set(saved) == set(arrays)
    for key, array in arrays.items():
        array[:] = saved[key]
    return net, trainer


def save(path, net, trainer, step):
    named = {name: p.data() for name, p in net._collect_params_with_prefix().items()}
    checkpoint.save(path, {"step": step}, named, optimizers.arrays(trainer), keep=1)


@pytest.mark.parametrize("name, momentum", CASES)
def test_stopped_and_gone_on_with_it_ends_as_if_it_never_stopped(name, momentum, tmp_path):
    net, trainer = build(name, momentum)
    optimizers.prepare(trainer, 0)
    train(net, trainer, range(5))
    expected = contents(net, trainer)

    net, trainer = build(name, momentum)
    optimizers.prepare(trainer, 0)
    train(net, trainer, range(2))
    save(tmp_path, net, trainer, 2)
    net, trainer = resumed(tmp_path, name, momentum, 2)
    train(net, trainer, range(2, 3))
    save(tmp_path, net, trainer, 3)  # twice: the count of updates goes on, too
    net, trainer = resumed(tmp_path, name, momentum, 3)
    train(net, trainer, range(3, 5))
    found = contents(net, trainer)

    assert set(found) == set(expected)
    for key in expected:
        assert np.isfinite(expected[key]).all(), key
        assert (found[key] == expected[key]).all(), key


@pytest.mark.parametrize("name, momentum", CASES)
def test_prepared_it_trains_as_mxnet_does_by_itself(name, momentum):
    ours, plain = build(name, momentum), build(name, momentum)
    optimizers.prepare(ours[1], 0)
    start = contents(*ours)
    train(*ours, range(4))
    train(*plain, range(4))
    found, expected = contents(*ours), contents(*plain)
    assert set(found) == set(expected) == set(start)
    for key in expected:
        assert (found[key] == expected[key]).all(), key
    assert (found["2.weight"] == start["2.weight"]).all()  # frozen
    assert (found["0.weight"] != start["0.weight"]).any()


@pytest.mark.parametrize("name, momentum", CASES)
def test_there_are_arrays_exactly_where_an_optimizer_has_state(name, momentum):
    _, trainer = build(name, momentum)
    optimizers.prepare(trainer, 0)
    found = optimizers.arrays(trainer)
    a_parameter = {"adam": 2, "ftml": 3, "lamb": 2, "adadelta": 2, "rmsprop": 1}
    a_parameter = a_parameter.get(name, 1 if momentum or name == "adagrad" else 0)
    moving = [p for p in trainer._params if p.grad_req != "null"]
    assert len(moving) == 7  # two layers of two, one of a bias alone, gamma and beta
    assert len(found) == a_parameter * len(moving)
    shapes = {p.name: p.shape for p in moving}
    assert all(array.shape == shapes[key.rpartition(".")[0]] for key, array in found.items())


def test_momentum_and_weight_decay_reach_the_optimizer():
    for name in WITH_MOMENTUM:
        built = optimizers.build(name, 0.75, 0.125)
        assert (built.momentum, built.wd) == (0.75, 0.125)
        assert optimizers.build(name, 0.0, 0.0).momentum == 0.0


def test_plain_sgd_is_the_textbooks():
    net = nn.Dense(1, in_units=2, use_bias=False)
    net.initialize(mx.init.One())
    trainer = mx.gluon.Trainer(
        net.collect_params(), optimizers.build("sgd", 0.0, 0.5), kvstore=None
    )
    optimizers.prepare(trainer, 0)
    trainer.set_learning_rate(0.1)
    with autograd.record():
        net(mx.nd.array([[3, 4]])).backward()
    trainer.step(1)
    expected = [[1 - 0.1 * (3 + 0.5), 1 - 0.1 * (4 + 0.5)]]
    assert net.weight.data().asnumpy() == pytest.approx(np.array(expected))
