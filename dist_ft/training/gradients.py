"""The loss of a batch, its gradients, and their clipping."""

from __future__ import annotations

import math
from typing import Iterator, Tuple

import mxnet as mx
from mxnet import autograd

from dist_ft.models.mxnet_internals import gradient_scale, trainer_parameters

# (x, labels, targets): (n, H, W, 3) uint8 pixels or (n, d) float32 features, (n,) int32 with -1 for
# images that do not count, (n, C) float32 with 0 for them; see data/targets.py.
DeviceBatch = Tuple[mx.nd.NDArray, mx.nd.NDArray, mx.nd.NDArray]


def backward(
    net: mx.gluon.HybridBlock, batch: DeviceBatch, loss_scale: float, micro_batch: int = 0
) -> mx.nd.NDArray:
    """Computes the gradients of the summed loss over the batch's images, times `loss_scale`.

    micro_batch: images that are computed at once, so that the memory for activations depends on it
    and not on the batch; 0: all. Returns (2,): the sum of the losses and the number of correct
    predictions, without waiting for the device.
    """
    if not micro_batch or micro_batch >= len(batch[0]):
        return _backward(net, batch, loss_scale)
    # MXNet's own accumulation (grad_req "add") gives wrong gradients for some networks: see issues
    # 16708 and 17989 of apache/mxnet.
    gradients = [p.grad() for p in net.collect_params().values() if p.grad_req != "null"]
    first, *others = _parts(batch, micro_batch)
    sums = [_backward(net, first, loss_scale)]
    for part in others:
        earlier = [gradient.copy() for gradient in gradients]
        sums.append(_backward(net, part, loss_scale))
        for gradient, total in zip(gradients, earlier):
            gradient += total
    return mx.nd.add_n(*sums)


def _parts(batch: DeviceBatch, max_rows: int) -> Iterator[DeviceBatch]:
    """Parts of nearly the same size, so that BatchNorm normalizes by none of very few images."""
    num_rows = len(batch[0])
    num_parts = math.ceil(num_rows / max_rows)
    for part in range(num_parts):
        first, end = (num_rows * i // num_parts for i in (part, part + 1))
        x, labels, targets = (array[first:end] for array in batch)
        yield x, labels, targets


def _backward(net: mx.gluon.HybridBlock, batch: DeviceBatch, loss_scale: float) -> mx.nd.NDArray:
    x, labels, targets = batch
    with autograd.record():
        logits = net(x).astype("float32")
        losses = cross_entropy(logits, targets)
        scaled = losses * loss_scale
    scaled.backward()
    correct = logits.argmax(axis=1) == labels.astype("float32")
    return mx.nd.stack(losses.sum(), correct.sum())


def cross_entropy(logits: mx.nd.NDArray, targets: mx.nd.NDArray) -> mx.nd.NDArray:
    """(n,): the sum of -target * log p over the classes; 0 for a row without a target.

    A target of 1 for one class gives exactly -log p of that class.
    """
    return -(targets * logits.log_softmax()).sum(axis=1)


def clip(trainer: mx.gluon.Trainer, weight_per_rank: float, clip_norm: float) -> None:
    """Scales the reduced gradients so that the norm of the mean gradient is at most `clip_norm`.

    The allreduce sums the gradients over the images, and also over the ranks unless NCCL averages
    them. The trainer's gradient scale is 1 / ranks in the first case and 1 in the second, so its
    product with 1 / weight_per_rank turns the reduced gradient into the mean in both.
    """
    limit = clip_norm * weight_per_rank / gradient_scale(trainer)
    mx.gluon.utils.clip_global_norm(of_trainer(trainer), limit, check_isfinite=False)


def of_trainer(trainer: mx.gluon.Trainer) -> list[mx.nd.NDArray]:
    """The gradient arrays of all parameters that are trained."""
    return [p.grad() for p in trainer_parameters(trainer) if p.grad_req != "null"]
