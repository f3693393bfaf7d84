"""A zoo network as ours: a new head, who learns at what rate, and what stays as it is."""

from __future__ import annotations

import difflib
import math
import re
from typing import Any, Dict, NamedTuple, Sequence

import mxnet as mx
import numpy as np
from mxnet.gluon import nn
from mxnet.gluon.model_zoo import vision

from dist_ft.errors import UserError
from dist_ft.models import mxnet_internals
from dist_ft.models.mxnet_internals import uses_running_statistics

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB, in 0..1
HEADS = ("output", "fc")  # what gluon's and gluoncv's classifiers call their last layer

Parameters = Dict[str, mx.gluon.Parameter]


class Normalize(mx.gluon.HybridBlock):
    """(n, side, side, 3) uint8 pixels -> (n, 3, side, side) float32, on the pixels' device."""

    def hybrid_forward(self, F, x):
        return F.image.normalize(F.image.to_tensor(x), mean=MEAN, std=STD)


def on_pixels(net: mx.gluon.HybridBlock) -> mx.gluon.HybridBlock:
    """The network behind its normalisation: uint8 pixels to logits, compiled as one graph."""
    whole = nn.HybridSequential()
    whole.add(Normalize(), net)
    whole.hybridize(static_alloc=True)
    return whole


def for_inference(
    net: mx.gluon.HybridBlock, ctx: mx.Context, dtype: str = "float32"
) -> mx.gluon.Block:
    """As `on_pixels`, and quicker on a CPU in float32, for parameters that stay as they are.

    oneDNN fuses a convolution with what follows it, and keeps the weights in a layout of its own:
    a later change of them may go unnoticed, so this is nothing to train with.
    """
    whole = on_pixels(net)
    fused = mx.runtime.Features().is_enabled("MKLDNN")
    if ctx.device_type != "cpu" or dtype != "float32" or not fused:
        return whole
    x = mx.sym.var("data", dtype="uint8")
    graph = whole(x).get_backend_symbol("MKLDNN")
    fixed = mx.gluon.SymbolBlock(graph, [x], params=net.collect_params())
    fixed.hybridize(static_alloc=True, static_shape=True)
    return fixed


def build(name: str, num_classes: int, image_size: int, seed: int) -> mx.gluon.HybridBlock:
    """A network of the zoo, drawn at random (Glorot and Bengio 2010) on the CPU.

    It maps (n, 3, image_size, image_size) to (n, num_classes) logits. Raises UserError for a name
    that no classifier has, and for an image size that does not pass through the network.
    """
    mx.random.seed(seed)
    with mx.name.NameManager():  # names from 0 in every process: ranks broadcast by them
        net = _zoo(name, num_classes)
    try:
        # Nothing is computed for the shapes: in float16, which is a GPU's, the CPU could not.
        net.infer_shape(mx.nd.zeros((1, 3, image_size, image_size)))
        graph = net(mx.sym.var("data"))
        _, (shape,), _ = graph.infer_shape(data=(1, 3, image_size, image_size))
    except (mx.MXNetError, AssertionError, AttributeError, ValueError) as error:
        raise UserError(
            f"--model {name} with --image-size {image_size}: the network does not take such"
            f" images: {str(error).strip().splitlines()[-1]}"
        ) from error
    if shape != (1, num_classes):
        raise UserError(f"--model {name}: gives {shape}, not {num_classes} logits an image")
    net.initialize(mx.init.Xavier())
    return net


def _zoo(name: str, num_classes: int) -> mx.gluon.HybridBlock:
    if name.lower() in _gluon_names():
        return vision.get_model(name.lower(), classes=num_classes)
    from gluoncv import model_zoo  # 2 s to import, for networks that gluon lacks

    names = sorted({*_gluon_names(), *model_zoo.get_model_list()})
    if name.lower() not in names:
        near = difflib.get_close_matches(name.lower(), names, n=5, cutoff=0.5)
        raise UserError(f"--model {name}: no such network; near it: {', '.join(near) or 'none'}")
    try:
        net = model_zoo.get_model(name.lower(), classes=num_classes)
    except (TypeError, OSError) as error:  # OSError: a detector fetches weights for its inside
        raise UserError(f"--model {name}: not a classifier of images ({error})") from error
    if not any(hasattr(net, head) for head in HEADS):
        raise UserError(f"--model {name}: its last layer is none of {', '.join(HEADS)}")
    return net


def _gluon_names() -> list[str]:
    try:
        vision.get_model("")
    except ValueError as error:  # it lists the names that it knows
        return re.findall(r"^\s+([a-z0-9_.]+)$", str(error), re.MULTILINE)
    return []


def parameters(net: mx.gluon.Block) -> Parameters:
    """The parameters by their place in the network, as in 'features.0.gamma'."""
    return mxnet_internals.parameters_by_path(net)


def arrays(net: mx.gluon.Block) -> dict[str, mx.nd.NDArray]:
    return {name: parameter.data() for name, parameter in parameters(net).items()}


def head_of(net: mx.gluon.Block) -> str:
    """The name that the head's parameters begin with, as in 'output.'."""
    return next(f"{head}." for head in HEADS if hasattr(net, head))


def set_rates(
    net: mx.gluon.Block,
    head_lr_mult: float,
    backbone_lr_mult: float,
    lr_mult: Sequence[str] = (),
    freeze: Sequence[str] = (),
) -> None:
    """Gives each parameter its learning-rate multiplier; a later rule wins over an earlier one.

    lr_mult: 'PATTERN=X', freeze: 'PATTERN'; a regular expression that is found in the names that
    `parameters` gives. A multiplier of 0 freezes: no gradient, and a BatchNorm whose statistics it
    covers normalises by them. Raises UserError for a pattern that matches nothing.
    """
    rules = [pair.rpartition("=")[::2] for pair in lr_mult] + [(p, "0") for p in freeze]
    named = parameters(net)
    mults = {
        name: head_lr_mult if name.startswith(head_of(net)) else backbone_lr_mult for name in named
    }
    for pattern, mult in rules:
        matching = [name for name in named if re.search(pattern, name)]
        if not matching:
            raise UserError(
                f"pattern {pattern!r} (--lr-mult or --freeze) matches no parameter; their names"
                f" are like {', '.join(list(named)[:: max(1, len(named) // 6)])}"
            )
        mults.update((name, float(mult)) for name in matching)
    for name, parameter in named.items():
        parameter.lr_mult = mults[name]
        if mults[name] == 0:
            parameter.grad_req = "null"
    still = {named[name] for name in named if mults[name] == 0}
    if not any(parameter.grad_req != "null" for parameter in named.values()):
        raise UserError("every parameter is frozen: nothing is left to train")
    freeze_batch_norm([block for block in batch_norms(net) if block.running_mean in still])


def frozen_features(net: mx.gluon.HybridBlock) -> mx.gluon.Block | None:
    """As `features`, where the head alone learns; None where more does."""
    head = head_of(net)
    learning = [n for n, p in parameters(net).items() if p.grad_req != "null"]
    keeps_statistics = all(uses_running_statistics(block) for block in batch_norms(net))
    alone = keeps_statistics and all(name.startswith(head) for name in learning)
    return features(net) if alone else None


def features(net: mx.gluon.HybridBlock) -> mx.gluon.Block | None:
    """What feeds the head, (n, side, side, 3) uint8 to features, on the same parameters; None where
    the head is more than one dense layer."""
    if not isinstance(getattr(net, head_of(net)[:-1]), nn.Dense):
        return None
    x = mx.sym.var("x", dtype="uint8")
    logits = on_pixels(net)(x)
    below = mx.gluon.SymbolBlock(logits.get_children()[0], [x], net.collect_params())
    below.hybridize(static_alloc=True)
    return below


def on_features(net: mx.gluon.HybridBlock) -> mx.gluon.HybridBlock:
    """The head alone: what `features` gives to logits."""
    head = nn.HybridSequential()
    head.add(getattr(net, head_of(net)[:-1]))
    head.hybridize()
    return head


def batch_norms(net: mx.gluon.Block) -> list[nn.BatchNorm]:
    return _blocks(net, nn.BatchNorm)


def has_dropout(net: mx.gluon.Block) -> bool:
    """Whether it draws random numbers in training."""
    return bool(_blocks(net, nn.Dropout))


def _blocks(net: mx.gluon.Block, kind: type) -> list[Any]:
    found: list[Any] = []
    net.apply(lambda block: found.append(block) if isinstance(block, kind) else None)
    return found


def freeze_batch_norm(blocks: Sequence[nn.BatchNorm]) -> None:
    """Makes them normalise by their running statistics, in training too, and keep these."""
    for block in blocks:
        mxnet_internals.set_use_running_statistics(block)


def pool_batch_norm(net: mx.gluon.Block, world) -> None:
    """Makes the ranks' running statistics one: those of all their batches together.

    The mean is the mean of the means; the variance is E[x^2] - mean^2, which keeps the spread
    between the ranks that a mean of variances would lose.
    """
    blocks = [b for b in batch_norms(net) if not uses_running_statistics(b)]
    if world.size == 1 or not blocks:
        return
    mean, var = (
        np.concatenate([getattr(block, name).data().asnumpy() for block in blocks])
        for name in ("running_mean", "running_var")
    )
    mean, var = mean.astype(np.float64), var.astype(np.float64)
    mean, square = world.sum(np.concatenate([mean, var + mean**2])).reshape(2, -1) / world.size
    ends = np.cumsum([block.running_mean.shape[0] for block in blocks])[:-1]
    pooled = np.split(mean, ends), np.split(square - mean**2, ends)
    for block, mean, var in zip(blocks, *pooled):
        block.running_mean.set_data(mx.nd.array(mean))
        block.running_var.set_data(mx.nd.array(var))


class Group(NamedTuple):
    """Parameters that learn at one rate."""

    name: str
    lr_mult: float
    num_tensors: int
    num_values: int


def groups(net: mx.gluon.Block) -> list[Group]:
    """Head, features and what is frozen, by multiplier; BatchNorm's statistics are left out."""
    found: dict[tuple, list[int]] = {}
    for name, parameter in parameters(net).items():
        if "running_" in name:
            continue
        part = "head" if name.startswith(head_of(net)) else "features"
        mult = 0.0 if parameter.grad_req == "null" else parameter.lr_mult
        found.setdefault((part, mult), []).append(math.prod(parameter.shape))
    ordered = sorted(found.items(), key=lambda item: (item[0][0] == "features", -item[0][1]))
    return [Group(part, mult, len(sizes), sum(sizes)) for (part, mult), sizes in ordered]
