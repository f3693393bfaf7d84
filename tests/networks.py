"""Small networks for tests."""

from __future__ import annotations

from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import nn

from dist_ft.data.targets import TargetRule
from dist_ft.models import batch_norm, zoo
from dist_ft.training.gradients import DeviceBatch

# Terms summed for one logit of `small_network` at 32 px: convolution, pooling, dense layer.
SMALL_NETWORK_TERMS = 3 * 3 * 3 + 16 * 16 + 8


class SmallNetwork(mx.gluon.HybridBlock):
    """Convolution, BatchNorm and pooling as `features`, a dense layer as `output`, like the zoo."""

    def __init__(self, num_classes: int):
        super().__init__()  # gluon counts the networks in the names of their parameters
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="")
            self.features.add(
                nn.Conv2D(8, 3, strides=2, padding=1, use_bias=False, in_channels=3),
                nn.BatchNorm(in_channels=8),
                nn.Activation("relu"),
                nn.GlobalAvgPool2D(),
                nn.Flatten(),
            )
            self.output = nn.Dense(num_classes, in_units=8)

    def hybrid_forward(self, F, x):
        return self.output(self.features(x))


def small_network(num_classes: int = 3, seed: int = 0) -> SmallNetwork:
    """A network of two layers with random parameters; for images of any size."""
    mx.random.seed(seed)
    net = SmallNetwork(num_classes)
    net.initialize(mx.init.Xavier())
    return net


WEIGHT_FILES = ("saved.params", "net-0000.params", "plain.params", "net.onnx")


def write_weight_files(folder: Path) -> None:
    """Writes a network in each format of WEIGHT_FILES: save_parameters, export, names without
    'arg:' and 'aux:', and ONNX."""
    net = small_network(num_classes=7, seed=1)
    for parameter in net.features[1].collect_params().values():
        parameter.set_data(mx.nd.random.uniform(0.5, 1.5, parameter.shape))
    net.hybridize()
    x = mx.nd.zeros((2, 3, 32, 32))
    net(x)
    net.save_parameters(str(folder / "saved.params"))
    net.export(str(folder / "net"), 0)
    exported = str(folder / "net-symbol.json"), str(folder / "net-0000.params")
    plain = {name.split(":")[1]: array for name, array in mx.nd.load(exported[1]).items()}
    mx.nd.save(str(folder / "plain.params"), plain)
    mx.onnx.export_model(*exported, [x.shape], x.dtype, str(folder / "net.onnx"))


def random_pixels(num_images: int = 6, side: int = 32, seed: int = 0) -> np.ndarray:
    """(num_images, side, side, 3) uint8."""
    shape = (num_images, side, side, 3)
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def device_batch(
    pixels: np.ndarray, labels: list[int], mask: list[int], label_smoothing: float = 0.0
) -> DeviceBatch:
    """A training batch of three classes: uint8 pixels, labels and targets as MXNet's arrays."""
    targets = TargetRule(label_smoothing).apply(np.array(labels), np.array(mask), 3)
    x = mx.nd.array(pixels, dtype="uint8")
    return x, mx.nd.array(targets.labels, dtype="int32"), mx.nd.array(targets.values)


def normalized_mobilenet(num_classes: int, pixels: np.ndarray) -> mx.gluon.HybridBlock:
    """A random mobilenet0.25 with the BatchNorm statistics of these images, (n, side, side, 3)
    uint8. With the initial statistics it gives nearly the same probabilities for all images."""
    core = zoo.build("mobilenet0.25", num_classes, pixels.shape[1], seed=0)
    for layer in batch_norm.layers(core):
        layer._kwargs["momentum"] = 0.0  # the running statistics become those of the last batch
    with autograd.record():
        logits = zoo.with_normalization(core)(mx.nd.array(pixels, dtype="uint8"))
    logits.backward()  # MXNet updates the statistics in the backward pass
    return core
