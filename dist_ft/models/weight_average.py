"""The moving average of a network's parameters, which is evaluated and saved in their place."""

from __future__ import annotations

from typing import ContextManager, Dict

import mxnet as mx

from dist_ft.distributed.world import World
from dist_ft.models import batch_norm, parameters
from dist_ft.models.mxnet_internals import parameters_by_path

Arrays = Dict[str, mx.nd.NDArray]  # by path, as in 'features.0.gamma'

WARM_UP_POWER = 2 / 3
CURRENT = "current."  # before the paths of the arrays that training continues from


def decay_at(step: int, decay: float) -> float:
    """The decay after a step, counted from 0: first 0, so that the average is the parameters.

    Source: the warm-up of timm's ModelEmaV3, with its default gamma of 1 and power of 2/3.
    """
    return min(decay, 1 - (1 + step) ** -WARM_UP_POWER)


class WeightAverage:
    """Exponential moving averages of the parameters and BatchNorm statistics that training changes.

    They depend only on the steps made, so all ranks have the same without communication, apart from
    the statistics, which are pooled. With a decay of 0 there are none: the network itself is
    evaluated and saved.
    """

    def __init__(self, net: mx.gluon.Block, decay: float):
        """net: initialized, on its device, and with its final lr multipliers."""
        self._net, self._decay = net, decay
        statistics = batch_norm.statistics(net)
        self._current = {
            path: parameter.data()
            for path, parameter in parameters_by_path(net).items()
            if decay and (parameter.grad_req != "null" or path in statistics)
        }
        self._averages = {path: array.copy() for path, array in self._current.items()}

    def update(self, step: int) -> None:
        """Moves the averages towards the network's arrays after a step, counted from 0.

        Does not wait for the device.
        """
        # A multiple of 2**-24, so that the weights `rate` and `1 - rate` are exact in float32: else
        # the average of a constant would drift away from it.
        rate = round((1 - decay_at(step, self._decay)) * 2**24) / 2**24
        for path, average in self._averages.items():
            # An SGD step on (average - array)**2 / 2, because MXNet does one in a single pass.
            mx.nd.sgd_update(
                average, self._current[path], lr=rate, wd=1.0, rescale_grad=-1.0, out=average
            )

    def net_arrays(self) -> Arrays:
        """The arrays of the network that is evaluated: the averages, and what training keeps."""
        return {**parameters.arrays(self._net), **self._averages}

    def current_arrays(self) -> Arrays:
        """The arrays that training continues from, where they are not in `net_arrays`."""
        return {CURRENT + path: array for path, array in self._current.items()}

    def arrays(self) -> Arrays:
        """All arrays by name."""
        return {**self.net_arrays(), **self.current_arrays()}

    def pool_statistics(self, world: World) -> None:
        """Pools BatchNorm's running statistics and their averages over the ranks."""
        statistics = batch_norm.statistics(self._net)
        averages = {f"average.{p}": self._averages[p] for p in statistics if p in self._averages}
        batch_norm.pool_statistics({**statistics, **averages}, world)

    def in_network(self) -> ContextManager[None]:
        """In the body of a `with` statement, the network has the averages."""
        return parameters.replaced(self._current, self._averages)

    def copy_to_network(self) -> None:
        """Replaces the network's arrays by the averages, at the end of the training."""
        for path, average in self._averages.items():
            average.copyto(self._current[path])
