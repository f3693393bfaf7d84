"""Cuts a network in two: the backbone, which computes features, and the head."""

from __future__ import annotations

import mxnet as mx
from mxnet.gluon import nn

from dist_ft.models import batch_norm, parameters, zoo
from dist_ft.models.mxnet_internals import uses_running_statistics


def feature_extractor(net: mx.gluon.HybridBlock) -> mx.gluon.Block | None:
    """Maps (n, side, side, 3) uint8 pixels to the head's inputs, with the network's parameters.

    Returns None if the head is not a single dense layer.
    """
    if not isinstance(_head_layer(net), nn.Dense):
        return None
    x = mx.sym.var("x", dtype="uint8")
    logits = zoo.with_normalization(net)(x)
    extractor = mx.gluon.SymbolBlock(logits.get_children()[0], [x], net.collect_params())
    extractor.hybridize(static_alloc=True)
    return extractor


def frozen_feature_extractor(net: mx.gluon.HybridBlock) -> mx.gluon.Block | None:
    """Like `feature_extractor`; None if anything but the head changes in training."""
    head = zoo.head_prefix(net)
    trains_head_only = all(path.startswith(head) for path in parameters.trainable(net))
    keeps_statistics = all(uses_running_statistics(layer) for layer in batch_norm.layers(net))
    return feature_extractor(net) if trains_head_only and keeps_statistics else None


def head(net: mx.gluon.HybridBlock) -> mx.gluon.HybridBlock:
    """Maps the features of `feature_extractor` to logits, with the network's parameters."""
    sequential = nn.HybridSequential()
    sequential.add(_head_layer(net))
    sequential.hybridize()
    return sequential


def _head_layer(net: mx.gluon.Block) -> mx.gluon.Block:
    return getattr(net, zoo.head_prefix(net).rstrip("."))
