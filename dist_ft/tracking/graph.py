"""A network as a graph that TensorBoard draws, nested as its blocks are."""

from __future__ import annotations

import json
from typing import Any, Iterable, Sequence

import mxnet as mx
from tensorboardX.proto.attr_value_pb2 import AttrValue
from tensorboardX.proto.graph_pb2 import GraphDef
from tensorboardX.proto.node_def_pb2 import NodeDef
from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboardX.proto.versions_pb2 import VersionDef

PARAMETER = "Parameter"  # what MXNet calls null


def draw(net: mx.gluon.HybridBlock, shape: Sequence[int]) -> GraphDef:
    """The graph of a network on uint8 pixels of this shape, (n, side, side, 3).

    A node is called by the blocks that it is in, as in 'resnetv20/stage1/conv0/weight', and has
    the shapes of its outputs.
    """
    with mx.name.NameManager():  # rank 0 alone draws: the others' names must not shift from its own
        symbol = net(mx.sym.var("pixels", dtype="uint8"))
    nodes = json.loads(symbol.tojson())["nodes"]
    prefixes = _prefixes(net)
    names = [_nested(node["name"], prefixes) for node in nodes]
    shapes = _shapes(symbol, shape)
    return GraphDef(
        node=(_node(node, name, names, shapes) for node, name in zip(nodes, names)),
        versions=VersionDef(producer=22),  # as PyTorch has it: the first of today's format
    )


def _node(node: dict[str, Any], name: str, names: list[str], shapes: dict[str, tuple]) -> NodeDef:
    is_parameter = node["op"] == "null" and node["name"] != "pixels"
    op = PARAMETER if is_parameter else "Placeholder" if node["op"] == "null" else node["op"]
    inputs = [
        names[source] + (f":{output}" if output else "") for source, output, *_ in node["inputs"]
    ]
    attributes = {
        key: AttrValue(s=str(value).encode())
        for key, value in node.get("attrs", {}).items()
        if not key.startswith("__")
    }
    if node["name"] in shapes:
        dims = [TensorShapeProto.Dim(size=size) for size in shapes[node["name"]]]
        listed = AttrValue.ListValue(shape=[TensorShapeProto(dim=dims)])
        attributes["_output_shapes"] = AttrValue(list=listed)
    return NodeDef(name=name, op=op, input=inputs, attr=attributes)


def _prefixes(net: mx.gluon.Block) -> list[str]:
    """What the names of blocks begin with, the shorter ones first."""
    found: set[str] = set()
    net.apply(lambda block: found.add(block.prefix))
    return sorted(found - {""}, key=len)


def _nested(name: str, prefixes: Iterable[str]) -> str:
    """The name with a slash where one block's part of it ends and the next begins."""
    parts, start = [], 0
    for prefix in prefixes:
        if name.startswith(prefix) and start < len(prefix) < len(name):
            parts.append(name[start : len(prefix)])
            start = len(prefix)
    return "/".join(part.strip("_") or part for part in (*parts, name[start:]))


def _shapes(symbol: mx.sym.Symbol, shape: Sequence[int]) -> dict[str, tuple]:
    """Of each node's first output, by the node's name."""
    inside = symbol.get_internals()
    arguments, outputs, auxiliaries = inside.infer_shape(pixels=tuple(shape))
    found = dict(zip(symbol.list_arguments(), arguments))
    found.update(zip(symbol.list_auxiliary_states(), auxiliaries))
    for output, size in zip(inside.list_outputs(), outputs):
        for ending in ("_output", "_output0"):
            if output.endswith(ending):
                found[output[: -len(ending)]] = size
    return found
