"""MXNet's optimizers by name, and their arrays in and out of a trainer, without a pickle."""

from __future__ import annotations

from typing import Any, Iterator

import mxnet as mx


def build(name: str, momentum: float, wd: float) -> mx.optimizer.Optimizer:
    """One of config.OPTIMIZERS; the rate is set before each step."""
    extra = {"momentum": momentum} if momentum else {}
    if name == "signum" and not momentum:
        extra["momentum"] = 0.0  # MXNet's own default is 0.9
    return mx.optimizer.create(name, wd=wd, **extra)


def arrays(trainer: mx.gluon.Trainer) -> dict[str, mx.nd.NDArray]:
    """The optimizer's state by parameter: 'NAME.0', 'NAME.1', ...; nothing for plain SGD."""
    return {
        f"{trainer._params[index].name}.{place}": array
        for index, state in sorted(trainer._updaters[0].states.items())
        for place, array in enumerate(_leaves(state))
    }


def prepare(trainer: mx.gluon.Trainer, step: int) -> None:
    """Makes the optimizer's arrays, which it would make in its first update, and sets the number
    of updates that it believes to have made: Adam's bias correction depends on it."""
    optimizer, updater = trainer._optimizer, trainer._updaters[0]
    optimizer.begin_num_update = optimizer.num_update = step
    for index, parameter in enumerate(trainer._params):
        if parameter.grad_req != "null":
            state = optimizer.create_state_multi_precision(index, parameter.data())
            updater.states[index], updater.states_synced[index] = state, True


def _leaves(state: Any) -> Iterator[mx.nd.NDArray]:
    if isinstance(state, (list, tuple)):
        for item in state:
            yield from _leaves(item)
    elif state is not None:
        yield state
