"""model: the table of rates, and BatchNorm's statistics made one."""

from threading import Barrier, Thread

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from dist_ft.distributed.startup import World
from dist_ft.models import zoo


def statistics(net):
    return {name: array.asnumpy() for name, array in zoo.arrays(net).items() if "running_" in name}


class Pair:
    """A world of two threads, which adds up what both bring."""

    size = 2

    def __init__(self):
        self.barrier, self.brought = Barrier(2, timeout=60), []

    def sum(self, values):
        self.brought.append(np.array(values, np.float64))
        self.barrier.wait()
        return self.brought[0] + self.brought[1]


def test_pooled_statistics_are_those_of_the_union():
    chance = np.random.RandomState(0)
    batches = [chance.normal(mean, dev, (50, 4)) for mean, dev in ((0, 1), (5, 3))]
    nets, world = [nn.BatchNorm(in_channels=4) for _ in batches], Pair()
    for net, batch in zip(nets, batches):
        net.initialize()
        net.running_mean.set_data(mx.nd.array(batch.mean(axis=0)))
        net.running_var.set_data(mx.nd.array(batch.var(axis=0)))
    threads = [Thread(target=zoo.pool_batch_norm, args=(net, world)) for net in nets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    union = np.concatenate(batches)
    for net in nets:
        assert net.running_mean.data().asnumpy() == pytest.approx(union.mean(axis=0), rel=1e-5)
        assert net.running_var.data().asnumpy() == pytest.approx(union.var(axis=0), rel=1e-5)


def test_one_rank_alone_keeps_its_statistics():
    net = zoo.build("mobilenet0.25", 3, 32, 0)
    chance = np.random.RandomState(0)
    for block in zoo.batch_norms(net):
        block.running_mean.set_data(mx.nd.array(chance.rand(block.running_mean.shape[0])))
    before = statistics(net)
    world = World("cpu", stall_timeout=300)
    zoo.pool_batch_norm(net, world)
    world.close()
    after = statistics(net)
    assert len(before) == 2 * len(zoo.batch_norms(net)) > 20
    assert all((before[name] == after[name]).all() for name in before)


def table(**settings):
    net = zoo.build("mobilenet0.25", 3, 32, 0)
    zoo.set_rates(net, **{"head_lr_mult": 10.0, "backbone_lr_mult": 1.0, **settings})
    return net, [tuple(group) for group in zoo.groups(net)]


def test_the_table_of_rates_counts_every_parameter_once():
    net, groups = table(lr_mult=("gamma=2",), freeze=(r"^features\.0\.",))
    sizes = {
        name: int(np.prod(p.shape))
        for name, p in zoo.parameters(net).items()
        if "running_" not in name
    }
    assert [group[:2] for group in groups] == [
        *(("head", 10.0), ("features", 2.0), ("features", 1.0), ("features", 0.0)),
    ]
    assert groups[0][2:] == (2, 256 * 3 + 3)
    assert groups[3][2:] == (1, 8 * 3 * 3 * 3)
    assert sum(group[2] for group in groups) == len(sizes)
    assert sum(group[3] for group in groups) == sum(sizes.values())


def test_frozen_features_are_one_row_of_the_table():
    _, groups = table(backbone_lr_mult=0.0)
    assert [group[:2] for group in groups] == [("head", 10.0), ("features", 0.0)]
