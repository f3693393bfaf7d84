"""The loss of a batch, its gradients, and their clipping."""

from __future__ import annotations

from typing import Tuple

import mxnet as mx
from mxnet import autograd

from dist_ft.models.mxnet_internals import gradient_scale, trainer_parameters

# (x, labels, mask): (n, H, W, 3) uint8 pixels or (n, d) float32 features, (n,), (n,).
DeviceBatch = Tuple[mx.nd.NDArray, mx.nd.NDArray, mx.nd.NDArray]


def backward(
    net: mx.gluon.HybridBlock, batch: DeviceBatch, label_smoothing: float, loss_scale: float
) -> mx.nd.NDArray:
    """Computes the gradients of the summed loss over the batch's real images, times `loss_scale`.

    Rows with a mask of 0 contribute nothing. Returns (2,): the sum of the losses and the number of
    correct predictions, without waiting for the device.
    """
    x, labels, mask = batch
    with autograd.record():
        logits = net(x).astype("float32")
        losses = cross_entropy(logits, labels, label_smoothing) * mask
        scaled = losses * loss_scale
    scaled.backward()
    correct = (logits.argmax(axis=1) == labels.astype("float32")) * mask
    return mx.nd.stack(losses.sum(), correct.sum())


def cross_entropy(
    logits: mx.nd.NDArray, labels: mx.nd.NDArray, label_smoothing: float = 0.0
) -> mx.nd.NDArray:
    """(n,): -log p(label), with labels smoothed towards the uniform distribution.

    Source: Szegedy et al. 2016, section 7.
    """
    log_p = logits.log_softmax()
    losses = -log_p.pick(labels)
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * log_p.mean(axis=1)
    return losses


def clip(trainer: mx.gluon.Trainer, images_per_rank: float, clip_norm: float) -> None:
    """Scales the reduced gradients so that the norm of the mean gradient is at most `clip_norm`.

    The allreduce sums the gradients over the images, and also over the ranks unless NCCL averages
    them. The trainer's gradient scale is 1 / ranks in the first case and 1 in the second, so its
    product with 1 / images_per_rank turns the reduced gradient into the mean in both.
    """
    limit = clip_norm * images_per_rank / gradient_scale(trainer)
    mx.gluon.utils.clip_global_norm(of_trainer(trainer), limit, check_isfinite=False)


def of_trainer(trainer: mx.gluon.Trainer) -> list[mx.nd.NDArray]:
    """The gradient arrays of all parameters that are trained."""
    return [p.grad() for p in trainer_parameters(trainer) if p.grad_req != "null"]
