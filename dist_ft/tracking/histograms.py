"""Where the values of weights and gradients lie, in TensorBoard's histograms."""

from __future__ import annotations

from typing import Any

import mxnet as mx

from dist_ft.models.mxnet_internals import parameters_by_path

NUM_BINS = 64  # of equal width; TensorBoard shows 30


def write(writer: Any, net: mx.gluon.Block, trainer: mx.gluon.Trainer, step: int) -> None:
    """Of every parameter, and of the mean gradient of the last step, as it was reduced and clipped,
    of those that learn; all ranks hold the same.

    writer: tensorboardX's.
    """
    for name, parameter in parameters_by_path(net).items():
        place = name.replace(".", "/", 1)
        writer.add_histogram(f"weights/{place}", parameter.data().asnumpy(), step, NUM_BINS)
        if parameter.grad_req != "null":
            # What the optimizer has made of the sum over images: see Trainer.update.
            mean = parameter.grad().asnumpy() * trainer.optimizer.rescale_grad
            writer.add_histogram(f"gradients/{place}", mean, step, NUM_BINS)
