"""models.imgclsmob: a network with the weights of imgclsmob computes what their names mean."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon.model_zoo import vision
from mxnet.gluon.model_zoo.vision.resnet import BasicBlockV2, BottleneckV2, ResNetV2

from dist_ft.models import imgclsmob, weight_file
from dist_ft.models.mxnet_internals import parameters_by_path
from tests.rounding import assert_close

BASIC, BOTTLENECK = (3, 3), (1, 3, 1)  # the sizes of the convolutions' kernels in a block
EPSILON = 1e-5  # of BatchNorm, in imgclsmob and in gluon
SIDE = 64  # four halvings leave 2 x 2 px


def convolution_shapes(num_units, channels, kernels) -> dict[str, tuple[int, ...]]:
    """The shape of each convolution by its name in imgclsmob's PreResNet."""
    shapes = {"features.0": (channels[0], 3, 7, 7)}
    num_inputs = channels[0]
    for stage, num in enumerate(num_units, start=1):
        for unit in range(num):
            num_outputs, name = channels[stage], f"features.{stage}.{unit}"
            inner = num_outputs // (4 if len(kernels) == 3 else 1)
            widths = (num_inputs, *[inner] * (len(kernels) - 1), num_outputs)
            for i, side in enumerate(kernels):
                shapes[f"{name}.body.conv{i + 1}"] = (widths[i + 1], widths[i], side, side)
            if unit == 0 and (stage > 1 or num_inputs != num_outputs):
                shapes[f"{name}.identity_conv"] = (num_outputs, num_inputs, 1, 1)
            num_inputs = num_outputs
    return shapes


def parameter_shapes(num_units, channels, kernels, num_classes=7) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter by its name; BatchNorm precedes convolutions, but the first."""
    shapes = {"output.1.weight": (num_classes, channels[-1]), "output.1.bias": (num_classes,)}
    widths = {"features.5": channels[-1]}
    for name, shape in convolution_shapes(num_units, channels, kernels).items():
        if name.endswith("identity_conv"):
            shapes[f"{name}.weight"] = shape
        else:
            shapes[f"{name}.conv.weight"] = shape
            widths[name] = shape[0] if name == "features.0" else shape[1]
    for name, width in widths.items():
        for statistic in ("gamma", "beta", "running_mean", "running_var"):
            shapes[f"{name}.bn.{statistic}"] = (width,)
    return shapes


def random_parameters(shapes, seed: int = 0) -> dict[str, np.ndarray]:
    """Float32; convolutions keep the size of activations, and no two parameters are alike."""
    rng, parameters = np.random.default_rng(seed), {}
    for name, shape in shapes.items():
        is_positive = name.endswith(("gamma", "running_var"))
        value = rng.uniform(0.5, 1.5, shape) if is_positive else rng.normal(size=shape)
        fan_in = np.prod(shape[1:]) if len(shape) == 4 else 1
        parameters[name] = (value / np.sqrt(fan_in)).astype(np.float32)
    return parameters


def features(parameters, x: np.ndarray, num_units, kernels) -> np.ndarray:
    """The features (n, channels) of PreResNet in float64, by its paper (He et al. 2016)."""

    def normalize(name, x):
        gamma, beta, mean, variance = (
            parameters[f"{name}.bn.{statistic}"].astype(np.float64)[:, None, None]
            for statistic in ("gamma", "beta", "running_mean", "running_var")
        )
        return np.maximum(0, (x - mean) / np.sqrt(variance + EPSILON) * gamma + beta)

    def convolve(name, x, stride=1):
        weight = parameters[f"{name}.weight"]
        return np.einsum(
            "nchwij,ocij->nohw", windows(x, weight.shape[-1], stride, 0), weight, optimize=True
        )

    strided = kernels.index(3) + 1  # the first convolution with more than one pixel
    x = normalize("features.0", convolve("features.0.conv", x, stride=2))
    x = windows(x, 3, 2, -np.inf).max((-1, -2))
    for stage, num in enumerate(num_units, start=1):
        for unit in range(num):
            name, stride = f"features.{stage}.{unit}", 2 if unit == 0 and stage > 1 else 1
            shortcut = x
            for i in range(1, len(kernels) + 1):
                x = normalize(f"{name}.body.conv{i}", x)
                if i == 1 and f"{name}.identity_conv.weight" in parameters:
                    shortcut = convolve(f"{name}.identity_conv", x, stride)
                x = convolve(f"{name}.body.conv{i}.conv", x, stride if i == strided else 1)
            x = x + shortcut
    return normalize("features.5", x).mean((-1, -2))


def windows(x, side, stride, fill):
    """The squares under a kernel, (n, channels, height, width, side, side), padded with `fill`."""
    margin = side // 2
    padded = np.pad(x, ((0, 0), (0, 0), (margin,) * 2, (margin,) * 2), constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(2, 3))
    return view[:, :, ::stride, ::stride]


def save(path, parameters) -> None:
    mx.nd.save(str(path), {name: mx.nd.array(value) for name, value in parameters.items()})


@pytest.mark.parametrize(
    "block, kernels, channels",
    [(BasicBlockV2, BASIC, (8, 8, 16, 24, 32)), (BottleneckV2, BOTTLENECK, (8, 16, 24, 32, 48))],
)
def test_gluons_network_computes_the_features_of_imgclsmobs(block, kernels, channels, tmp_path):
    num_units = (2, 1, 1, 2)
    parameters = random_parameters(parameter_shapes(num_units, channels, kernels))
    save(tmp_path / "file", parameters)
    net = ResNetV2(block, num_units, channels, classes=5)
    net.initialize()
    x = np.random.default_rng(1).normal(size=(2, 3, SIDE, SIDE)).astype(np.float32)
    net(mx.nd.array(x))  # gives the parameters their shapes
    weight_file.load_backbone(tmp_path / "file", net)

    expected = features(parameters, x.astype(np.float64), num_units, kernels)
    shapes = convolution_shapes(num_units, channels, kernels).values()
    num_terms = sum(np.prod(shape[1:]) for shape in shapes)
    assert_close(net.features(mx.nd.array(x)).asnumpy(), expected, num_terms)


@pytest.mark.parametrize(
    "model, kernels, channels",
    [
        ("resnet34_v2", BASIC, (64, 64, 128, 256, 512)),
        ("resnet50_v2", BOTTLENECK, (64, 256, 512, 1024, 2048)),
    ],
)
def test_every_parameter_of_a_published_network_has_its_place(model, kernels, channels):
    net = vision.get_model(model)
    net.infer_shape(mx.nd.zeros((1, 3, SIDE, SIDE)))
    network = {path: parameter.shape for path, parameter in parameters_by_path(net).items()}
    file = imgclsmob.rename_to_gluon(parameter_shapes((3, 4, 6, 3), channels, kernels))
    shapes = {path: getattr(value, "shape", value) for path, value in file.items()}
    assert backbone(shapes) == backbone(network)


def backbone(shapes) -> dict[str, tuple[int, ...]]:
    return {path: shape for path, shape in shapes.items() if not path.startswith("output.")}
