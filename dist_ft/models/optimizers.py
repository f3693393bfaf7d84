"""MXNet's optimizers by name, and access to their state arrays without pickling."""

from __future__ import annotations

from typing import Any, Iterator

import mxnet as mx

from dist_ft.models.mxnet_internals import optimizer_of, trainer_parameters, updater_of


def build(name: str, momentum: float, wd: float) -> mx.optimizer.Optimizer:
    """Creates one of recipe_settings.OPTIMIZERS.

    The caller sets the learning rate before each step.
    """
    arguments = {"momentum": momentum} if momentum else {}
    if name == "signum" and not momentum:
        arguments["momentum"] = 0.0  # MXNet's own default is 0.9
    return mx.optimizer.create(name, wd=wd, **arguments)


def state_arrays(trainer: mx.gluon.Trainer) -> dict[str, mx.nd.NDArray]:
    """The state arrays as 'PARAMETER.0', 'PARAMETER.1', ...; empty for SGD without momentum."""
    parameters = trainer_parameters(trainer)
    return {
        f"{parameters[index].name}.{number}": array
        for index, state in sorted(updater_of(trainer).states.items())
        for number, array in enumerate(_flatten(state))
    }


def create_state(trainer: mx.gluon.Trainer, step: int) -> None:
    """Creates the state arrays, which MXNet would create in the first update, and sets the number
    of updates made so far, on which Adam's bias correction depends."""
    optimizer, updater = optimizer_of(trainer), updater_of(trainer)
    optimizer.begin_num_update = optimizer.num_update = step
    for index, parameter in enumerate(trainer_parameters(trainer)):
        if parameter.grad_req != "null":
            state = optimizer.create_state_multi_precision(index, parameter.data())
            updater.states[index] = state
            updater.states_synced[index] = True


def _flatten(state: Any) -> Iterator[mx.nd.NDArray]:
    """The arrays of a state, which is None, an array, or a tuple of states."""
    if isinstance(state, (list, tuple)):
        for item in state:
            yield from _flatten(item)
    elif state is not None:
        yield state
