"""models.zoo: networks with a new head."""

import sys

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn
from mxnet.gluon.data.vision import transforms

from dist_ft.errors import UserError
from dist_ft.models import parameters, zoo
from dist_ft.models.mxnet_internals import parameters_by_path
from tests.networks import SMALL_NETWORK_TERMS, random_pixels, small_network
from tests.rounding import assert_close


def build(name="mobilenet0.25", num_classes=3, side=32, seed=0):
    return zoo.build(name, num_classes, side, seed)


@pytest.mark.parametrize(
    "name, head, weight_shape",
    [
        ("resnet18_v2", "output.", (5, 512)),
        ("mobilenetv2_0.25", "output.", (5, 1280, 1, 1)),
        ("squeezenet1.1", "output.", (5, 512, 1, 1)),
        ("MobileNet0.25", "output.", (5, 256)),
    ],
)
def test_a_network_of_gluon_has_a_head_for_our_classes(name, head, weight_shape):
    check_head(build(name, num_classes=5, side=224), head, weight_shape)


@pytest.mark.parametrize(
    "name, head, weight_shape",
    [
        ("cifar_resnet20_v1", "output.", (5, 64)),
        ("mobilenetv3_small", "output.", (5, 1280, 1, 1)),
        ("resnet18_v1b", "fc.", (5, 512)),
    ],
)
def test_a_network_of_gluoncv_has_a_head_for_our_classes(name, head, weight_shape):
    pytest.importorskip("gluoncv")
    check_head(build(name, num_classes=5), head, weight_shape)


def check_head(net, head, weight_shape):
    assert zoo.head_prefix(net) == head
    paths = {path: p.shape for path, p in parameters_by_path(net).items()}
    assert weight_shape in [shape for path, shape in paths.items() if path.startswith(head)]


@pytest.mark.parametrize(
    "name, similar", [("resnet34v2", ".*resnet34_v2"), ("qqqqqqqqqqqqqqq", "none")]
)
def test_an_unknown_name_is_rejected_with_similar_names(name, similar):
    pytest.importorskip("gluoncv")
    with pytest.raises(UserError, match=f"--model {name}: unknown network; similar.*: {similar}"):
        build(name)


def test_a_name_outside_gluon_needs_gluoncv(monkeypatch):
    monkeypatch.setitem(sys.modules, "gluoncv", None)  # its import then fails
    with pytest.raises(UserError, match=r"resnet18_v1b: .*pip install 'dist-ft\[gluoncv\]'") as e:
        build("resnet18_v1b")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["ssd_300_vgg16_atrous_voc", "siamrpn_alexnet_v2_otb15"])
def test_a_network_that_is_not_a_classifier_is_rejected(name):
    pytest.importorskip("gluoncv")
    with pytest.raises(UserError, match=f"--model {name}: not an image classifier"):
        build(name)


def test_an_image_size_that_the_network_does_not_accept_is_rejected():
    with pytest.raises(UserError, match="--model alexnet with --image-size 16: the network does"):
        build("alexnet", side=16)


def test_parameter_names_do_not_depend_on_networks_built_before():
    first = build()
    nn.Dense(3)  # advances gluon's global counter
    second = build()
    assert list(first.collect_params()) == list(second.collect_params())


def test_the_seed_determines_the_parameters():
    first, again, other = (
        np.concatenate([a.asnumpy().ravel() for a in parameters.arrays(build(seed=seed)).values()])
        for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_normalize_equals_to_tensor_and_normalize_of_gluon():
    x = mx.nd.array(random_pixels(), dtype="uint8")
    gluon = transforms.Compose([transforms.ToTensor(), transforms.Normalize(zoo.MEAN, zoo.STD)])
    expected = np.stack([gluon(image).asnumpy() for image in x])
    normalized = zoo.Normalize()(x).asnumpy()
    assert (normalized.dtype, normalized.shape) == (np.float32, (6, 3, 32, 32))
    assert_close(normalized, expected, num_terms=4)  # two divisions, a subtraction, a rounded mean


def test_with_normalization_takes_pixels():
    net = small_network()
    x = mx.nd.array(random_pixels(), dtype="uint8")
    expected = net(zoo.Normalize()(x)).asnumpy()
    assert_close(zoo.with_normalization(net)(x).asnumpy(), expected, SMALL_NETWORK_TERMS)


def test_dropout_is_detected():
    assert zoo.has_dropout(build("alexnet", side=224))
    assert not zoo.has_dropout(small_network())
