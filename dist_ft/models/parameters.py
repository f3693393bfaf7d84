"""Learning-rate multipliers and freezing of a network's parameters."""

from __future__ import annotations

import math
import re
from typing import NamedTuple, Sequence

import mxnet as mx

from dist_ft.errors import UserError
from dist_ft.models import batch_norm, zoo
from dist_ft.models.mxnet_internals import parameters_by_path


def arrays(net: mx.gluon.Block) -> dict[str, mx.nd.NDArray]:
    """The values of the parameters and BatchNorm statistics, by path as in 'features.0.gamma'."""
    return {path: parameter.data() for path, parameter in parameters_by_path(net).items()}


def set_lr_multipliers(
    net: mx.gluon.Block,
    head_lr_mult: float,
    backbone_lr_mult: float,
    lr_mult: Sequence[str] = (),
    freeze: Sequence[str] = (),
) -> None:
    """Sets the learning-rate multiplier of each parameter; later rules override earlier ones.

    lr_mult: rules 'PATTERN=MULTIPLIER'; freeze: rules 'PATTERN', which override all of lr_mult. A
    pattern is a regular expression searched for in the parameters' paths. A multiplier of 0
    freezes a parameter: it gets no gradient. A BatchNorm layer whose running mean is frozen
    normalises by its running statistics. Raises UserError if a pattern matches nothing, or if
    everything is frozen.
    """
    parameters, head = parameters_by_path(net), zoo.head_prefix(net)
    multipliers = {
        path: head_lr_mult if path.startswith(head) else backbone_lr_mult for path in parameters
    }
    for rule in lr_mult:
        pattern, _, multiplier = rule.rpartition("=")
        for path in _matching(pattern, multipliers):
            multipliers[path] = float(multiplier)
    for pattern in freeze:
        for path in _matching(pattern, multipliers):
            multipliers[path] = 0.0

    for path, parameter in parameters.items():
        parameter.lr_mult = multipliers[path]
        if multipliers[path] == 0:
            parameter.grad_req = "null"
    if not trainable(net):
        raise UserError(
            "all parameters are frozen, so nothing would be trained: change --freeze, --lr-mult,"
            " --head-lr-mult or --backbone-lr-mult"
        )
    frozen = {parameters[path] for path in parameters if multipliers[path] == 0}
    batch_norm.freeze([layer for layer in batch_norm.layers(net) if layer.running_mean in frozen])


def _matching(pattern: str, paths: dict[str, float]) -> list[str]:
    matching = [path for path in paths if re.search(pattern, path)]
    if not matching:
        examples = list(paths)[:: max(1, len(paths) // 6)]
        raise UserError(
            f"--lr-mult or --freeze {pattern!r}: matches no parameter; examples of their names:"
            f" {', '.join(examples)}"
        )
    return matching


def trainable(net: mx.gluon.Block) -> list[str]:
    """The paths of the parameters that are trained."""
    return [path for path, p in parameters_by_path(net).items() if p.grad_req != "null"]


class Group(NamedTuple):
    """Parameters with one learning-rate multiplier; 0 for frozen ones."""

    name: str  # "head" or "features"
    lr_mult: float
    num_tensors: int
    num_values: int


def groups(net: mx.gluon.Block) -> list[Group]:
    """The head's and the features' parameters by multiplier, without BatchNorm's statistics."""
    sizes: dict[tuple[str, float], list[int]] = {}
    for path, parameter in parameters_by_path(net).items():
        if "running_" in path:
            continue
        name = "head" if path.startswith(zoo.head_prefix(net)) else "features"
        multiplier = 0.0 if parameter.grad_req == "null" else parameter.lr_mult
        sizes.setdefault((name, multiplier), []).append(math.prod(parameter.shape))
    ordered = sorted(sizes.items(), key=lambda item: (item[0][0] != "head", -item[0][1]))
    return [Group(*key, len(values), sum(values)) for key, values in ordered]
