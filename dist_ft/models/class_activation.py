"""Finds the inputs of a network's head, and the logits of each place, in its graph.

If a network averages its last feature map over all places and ends with a dense layer, each logit
is the mean over the places of what that layer makes of the features there. These logits of the
places are the class-activation maps of Zhou et al. 2016, with the bias.
"""

from __future__ import annotations

import json

import mxnet as mx

KEEP_VALUES = ("Flatten", "Reshape", "Dropout", "amp_cast")  # operators between pooling and head


def head_inputs(logits: mx.sym.Symbol) -> mx.sym.Symbol | None:
    """(n, D): the inputs of the dense layer that gives the logits; None if no such layer does."""
    if _node(logits)["op"] != "FullyConnected":
        return None
    return mx.sym.flatten(logits.get_children()[0])


def logits_by_place(logits: mx.sym.Symbol, side: int) -> mx.sym.Symbol | None:
    """(n, h, w, C), whose means over h and w are the logits; None for other networks.

    logits: of images of `side` px, which are the variable 'data'.
    """
    if _node(logits)["op"] != "FullyConnected":
        return None
    pooled, *parameters = logits.get_children()
    while _node(pooled)["op"] in KEEP_VALUES:
        pooled = pooled.get_children()[0]
    pooling = _node(pooled)
    if pooling["op"] != "Pooling" or pooling["attrs"]["pool_type"] != "avg":
        return None
    features = pooled.get_children()[0]
    _, (shape,), _ = features.infer_shape(data=(1, side, side, 3))
    is_global = pooling["attrs"].get("global_pool") == "True"
    if not is_global and pooling["attrs"]["kernel"] != str(shape[2:]):
        return None
    _, ((_, num_classes),), _ = logits.infer_shape(data=(1, side, side, 3))
    return mx.sym.FullyConnected(
        features.transpose((0, 2, 3, 1)),
        *parameters,
        num_hidden=num_classes,
        no_bias=len(parameters) == 1,
        flatten=False,
    )


def _node(symbol: mx.sym.Symbol) -> dict:
    """The operator that gives a symbol, with its attributes as text."""
    return json.loads(symbol.tojson())["nodes"][-1]
