"""How deep the parameters of a network lie below its head."""

from __future__ import annotations

from typing import Iterator

import mxnet as mx
from mxnet.gluon import nn

from dist_ft.models import zoo
from dist_ft.models.mxnet_internals import children, parameters_by_path

SEQUENCES = (nn.Sequential, nn.HybridSequential)  # without subclasses, whose branches are parallel


def depths(net: mx.gluon.Block) -> dict[str, int]:
    """By path: 0 for the head, 1 for the unit before it, 2 for the one before that, and so on.

    A unit is a block of a stage, such as a residual block; the stem, which is all layers before the
    first block; or in a network without blocks a layer with weights. Layers without weights, such
    as BatchNorm, belong to the unit before. timm's fine groups are the same for ResNets.
    """
    units: list[list[str]] = [[]]  # paths of the blocks and layers of each
    head = zoo.head_prefix(net)
    blocks = [(path, block) for path, block in _blocks(net) if not f"{path}.".startswith(head)]
    is_stem = any(_is_composite(block) for _, block in blocks)
    for path, block in blocks:
        is_stem = is_stem and not _is_composite(block)
        if units[-1] and not is_stem and (_is_composite(block) or hasattr(block, "weight")):
            units.append([])
        units[-1].append(f"{path}.")
    depth_of = {head: 0}
    for depth, unit in enumerate(reversed(units), start=1):
        depth_of.update(dict.fromkeys(unit, depth))

    def depth_at(path: str) -> int:
        # Parameters of the network itself, outside of its blocks, come first.
        return next((depth_of[start] for start in depth_of if path.startswith(start)), len(units))

    return {path: depth_at(path) for path in parameters_by_path(net)}


def _blocks(block: mx.gluon.Block, path: str = "") -> Iterator[tuple[str, mx.gluon.Block]]:
    """The layers and blocks with parameters in a network or a stage, with their paths, in order."""
    for name, child in children(block).items():
        is_stage = type(child) in SEQUENCES and any(map(_is_composite, children(child).values()))
        if is_stage or name == "features":
            yield from _blocks(child, f"{path}{name}.")
        elif child.collect_params().keys():
            yield path + name, child


def _is_composite(block: mx.gluon.Block) -> bool:
    """False for a layer, which at most has its activation inside."""
    return any(child.collect_params().keys() for child in children(block).values())
