"""A network's parameters: their arrays, learning-rate multipliers and freezing."""

from __future__ import annotations

import math
import re
from collections import Counter
from contextlib import contextmanager
from typing import Iterator, Mapping, NamedTuple, Sequence

import mxnet as mx

from dist_ft.errors import UserError
from dist_ft.models import batch_norm, zoo
from dist_ft.models.depth import depths
from dist_ft.models.mxnet_internals import parameters_by_path, uses_running_statistics


def arrays(net: mx.gluon.Block) -> dict[str, mx.nd.NDArray]:
    """The values of the parameters and BatchNorm statistics, by path as in 'features.0.gamma'."""
    return {path: parameter.data() for path, parameter in parameters_by_path(net).items()}


@contextmanager
def replaced(
    current: Mapping[str, mx.nd.NDArray], values: Mapping[str, mx.nd.NDArray]
) -> Iterator[None]:
    """In the body, the arrays have these values, by name; after it, their own again.

    Copies in place, because compiled graphs and the trainer refer to the arrays.
    """
    own = {name: current[name].copy() for name in values}
    _assign(current, values)
    try:
        yield
    finally:
        _assign(current, own)


def _assign(current: Mapping[str, mx.nd.NDArray], values: Mapping[str, mx.nd.NDArray]) -> None:
    for name, value in values.items():
        value.copyto(current[name])


def set_lr_multipliers(
    net: mx.gluon.Block,
    head_lr_mult: float,
    backbone_lr_mult: float,
    lr_mult: Sequence[str] = (),
    freeze: Sequence[str] = (),
    layer_decay: float = 1.0,
) -> None:
    """Sets the learning-rate multiplier of each parameter; later rules override earlier ones.

    The backbone's multiplier is multiplied by layer_decay ** depth (see `depths`), as in Bao et al.
    2022, "BEiT". lr_mult: rules 'PATTERN=MULTIPLIER'; freeze: rules 'PATTERN', which override all
    of lr_mult. A pattern is a regular expression searched for in the parameters' paths. A
    multiplier of 0 freezes a parameter: it gets no gradient. A BatchNorm layer whose running mean
    is frozen normalizes by its running statistics. Raises UserError if a pattern matches nothing,
    or if everything is frozen.
    """
    parameters = parameters_by_path(net)
    multipliers = {
        path: backbone_lr_mult * layer_decay**depth if depth else head_lr_mult
        for path, depth in depths(net).items()
    }
    rules = [rule.rpartition("=")[::2] for rule in lr_mult] + [(rule, "0") for rule in freeze]
    for pattern, multiplier in rules:
        matching = [path for path in parameters if re.search(pattern, path)]
        if not matching:
            examples = ", ".join(list(parameters)[:: max(1, len(parameters) // 6)])
            raise UserError(
                f"--lr-mult or --freeze {pattern!r}: matches no parameter; examples of their"
                f" names: {examples}"
            )
        multipliers.update(dict.fromkeys(matching, float(multiplier)))

    for path, parameter in parameters.items():
        parameter.lr_mult = multipliers[path]
        if multipliers[path] == 0:
            parameter.grad_req = "null"
    if all(parameter.grad_req == "null" for parameter in parameters.values()):
        raise UserError(
            "all parameters are frozen, so nothing would be trained: change --freeze, --lr-mult,"
            " --head-lr-mult or --backbone-lr-mult"
        )
    batch_norm.freeze(b for b in batch_norm.layers(net) if b.running_mean.lr_mult == 0)


def has_frozen_backbone(net: mx.gluon.Block) -> bool:
    """True if training changes no features: BatchNorm, too, uses its running statistics."""
    head = zoo.head_prefix(net)
    return all(uses_running_statistics(block) for block in batch_norm.layers(net)) and all(
        path.startswith(head) or parameter.grad_req == "null"
        for path, parameter in parameters_by_path(net).items()
    )


class Group(NamedTuple):
    """Parameters with one learning-rate multiplier; 0 for frozen ones."""

    name: str  # "head" or "features"
    lr_mult: float
    num_values: int


def groups(net: mx.gluon.Block) -> list[Group]:
    """The head's and the features' parameters by multiplier, without BatchNorm's statistics."""
    sizes: Counter[tuple[str, float]] = Counter()
    for path, parameter in parameters_by_path(net).items():
        if "running_" not in path:
            name = "head" if path.startswith(zoo.head_prefix(net)) else "features"
            multiplier = 0.0 if parameter.grad_req == "null" else parameter.lr_mult
            sizes[name, multiplier] += math.prod(parameter.shape)
    return [Group(*key, num_values) for key, num_values in sorted(sizes.items(), reverse=True)]
