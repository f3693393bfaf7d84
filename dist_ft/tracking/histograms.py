"""Histograms of weights and gradients in TensorBoard."""

from __future__ import annotations

import mxnet as mx
from tensorboardX import SummaryWriter

from dist_ft.models.mxnet_internals import parameters_by_path

NUM_BINS = 64  # of equal width; TensorBoard shows 30


def add(writer: SummaryWriter, net: mx.gluon.Block, trainer: mx.gluon.Trainer, step: int) -> None:
    """Adds every parameter, and the last step's mean gradient of each trained parameter.

    The gradients are shown as the optimizer sees them: reduced over ranks and clipped.
    """
    for name, parameter in parameters_by_path(net).items():
        tag = name.replace(".", "/", 1)
        writer.add_histogram(f"weights/{tag}", parameter.data().asnumpy(), step, NUM_BINS)
        if parameter.grad_req != "null":
            # Trainer.update puts 1 / (images in the step) into rescale_grad.
            mean = parameter.grad().asnumpy() * trainer.optimizer.rescale_grad
            writer.add_histogram(f"gradients/{tag}", mean, step, NUM_BINS)
