"""Test-time augmentation: the mean prediction for an image and its mirror image."""

from __future__ import annotations

import math

import mxnet as mx

from dist_ft.evaluation.evaluator import Network


def augmented(net: Network, tta: str, num_classes: int) -> Network:
    """The network, from (n, side, side, 3) uint8 to (n, C) logits, with test-time augmentation.

    tta: 'flip' for the mean of the class probabilities of an image and its mirror image, as in
    Simonyan and Zisserman 2014; the new logits are the logarithms of these means. Further columns
    of the network's output are left as they are.
    """
    if tta == "none":
        return net

    def network(x: mx.nd.NDArray) -> mx.nd.NDArray:
        output = net(x).astype("float32")  # a copy
        mirrored = net(x.flip(axis=2)).astype("float32")
        output[:, :num_classes] = log_mean_probabilities(
            output[:, :num_classes], mirrored[:, :num_classes]
        )
        return output

    return network


def log_mean_probabilities(first: mx.nd.NDArray, second: mx.nd.NDArray) -> mx.nd.NDArray:
    """(n, C): the logarithms of the mean probabilities of two arrays of logits."""
    first, second = first.log_softmax(), second.log_softmax()
    # Of the larger one and a difference of at most 0, so that no probability becomes 0.
    larger, difference = mx.nd.maximum(first, second), -(first - second).abs()
    return larger + difference.exp().log1p() - math.log(2)
