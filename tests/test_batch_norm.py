"""models.batch_norm: one set of running statistics for all ranks."""

from threading import Barrier, Thread

import mxnet as mx
import numpy as np
from mxnet.gluon import nn

from dist_ft.models import batch_norm
from tests.rounding import EPSILON


class ThreadWorld:
    """Two threads as ranks; tests/workers/world.py does the same with Horovod."""

    size = 2

    def __init__(self):
        self.barrier, self.values = Barrier(2, timeout=60), []

    def sum(self, values):
        self.values.append(np.array(values, np.float64))
        self.barrier.wait()
        return self.values[0] + self.values[1]


def test_pooled_statistics_are_those_of_all_batches_together():
    random = np.random.RandomState(0)
    batches = [random.normal(mean, deviation, (50, 4)) for mean, deviation in ((0, 1), (5, 3))]
    layers, world = [nn.BatchNorm(in_channels=4) for _ in batches], ThreadWorld()
    for layer, batch in zip(layers, batches):
        layer.initialize()
        layer.running_mean.set_data(mx.nd.array(batch.mean(axis=0)))
        layer.running_var.set_data(mx.nd.array(batch.var(axis=0)))
    threads = [Thread(target=batch_norm.pool_statistics, args=(layer, world)) for layer in layers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    union = np.concatenate(batches)
    # Means and variances are rounded to float32 before and after; the sums are float64.
    atol = 4 * EPSILON * (union**2).mean(axis=0).max()
    for layer in layers:
        for pooled, expected in (
            (layer.running_mean, union.mean(axis=0)),
            (layer.running_var, union.var(axis=0)),
        ):
            np.testing.assert_allclose(pooled.data().asnumpy(), expected, rtol=0, atol=atol)
