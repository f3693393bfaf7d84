"""models.zoo: networks with a new head, and the two parts of a network."""

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


@pytest.mark.parametrize(
    "name, head, weight_shape",
    [
        ("resnet18_v2", "output.", (5, 512)),
        ("MobileNet0.25", "output.", (5, 256)),
        ("squeezenet1.1", "output.", (5, 512, 1, 1)),
        ("cifar_resnet20_v1", "output.", (5, 64)),
        ("resnet18_v1b", "fc.", (5, 512)),
    ],
)
def test_a_network_of_gluon_or_gluoncv_has_a_head_for_our_classes(name, head, weight_shape):
    if name in ("cifar_resnet20_v1", "resnet18_v1b"):
        pytest.importorskip("gluoncv")
    net = zoo.build(name, 5, 224, seed=0)
    assert zoo.head_prefix(net) == head
    shapes = {path: p.shape for path, p in parameters_by_path(net).items()}
    assert weight_shape in [shape for path, shape in shapes.items() if path.startswith(head)]


@pytest.mark.parametrize(
    "name, message",
    [
        ("resnet34v2", ": unknown network; similar names: .*resnet34_v2"),
        ("qqqqqqqqqqqqqqq", ": unknown network; similar names: none"),
        ("ssd_300_vgg16_atrous_voc", ": not an image classifier"),
        ("siamrpn_alexnet_v2_otb15", ": not an image classifier"),
        ("alexnet", " with --image-size 16: the network does not accept this size"),
    ],
)
def test_a_network_that_cannot_classify_such_images_is_rejected(name, message):
    pytest.importorskip("gluoncv")
    with pytest.raises(UserError, match=f"--model {name}{message}"):
        zoo.build(name, 3, 16, seed=0)


def test_a_name_outside_gluon_needs_gluoncv(monkeypatch):
    monkeypatch.setitem(sys.modules, "gluoncv", None)  # its import then fails
    with pytest.raises(UserError, match=r"resnet18_v1b: .*pip install 'dist-ft\[gluoncv\]'"):
        zoo.build("resnet18_v1b", 3, 32, seed=0)


def test_names_and_values_of_parameters_depend_on_the_seed_alone():
    first = zoo.build("mobilenet0.25", 3, 32, seed=1)
    nn.Dense(3)  # advances gluon's global counter
    again, other = (zoo.build("mobilenet0.25", 3, 32, seed) for seed in (1, 2))
    assert list(first.collect_params()) == list(again.collect_params())
    first_values, again_values, other_values = (
        np.concatenate([array.asnumpy().ravel() for array in parameters.arrays(net).values()])
        for net in (first, again, other)
    )
    assert (first_values == again_values).all()
    assert (first_values != other_values).any()


def test_pixels_are_normalized_as_by_gluons_transforms():
    x, net = mx.nd.array(random_pixels(), dtype="uint8"), small_network()
    gluon = transforms.Compose([transforms.ToTensor(), transforms.Normalize(zoo.MEAN, zoo.STD)])
    expected = mx.nd.stack(*[gluon(image) for image in x])
    normalized = zoo.Normalize()(x).asnumpy()
    # two divisions, a subtraction, a rounded mean
    assert_close(normalized, expected.asnumpy(), num_terms=4)
    logits = zoo.with_normalization(net)(x).asnumpy()
    assert_close(logits, net(expected).asnumpy(), SMALL_NETWORK_TERMS)


def test_extractor_and_head_together_are_the_network_and_share_its_parameters():
    x, net = mx.nd.array(random_pixels(), dtype="uint8"), small_network()
    extractor, head = zoo.feature_extractor(net), zoo.head(net)
    for change in (0.0, 0.5):
        for parameter in parameters_by_path(net).values():
            parameter.set_data(parameter.data() + change)
        expected = zoo.with_normalization(net)(x).asnumpy()
        assert np.ptp(expected) > 0
        assert_close(head(extractor(x)).asnumpy(), expected, SMALL_NETWORK_TERMS)


def test_a_head_of_several_layers_has_no_extractor():
    assert zoo.feature_extractor(zoo.build("squeezenet1.1", 2, 224, seed=0)) is None


def test_dropout_is_detected():
    assert zoo.has_dropout(zoo.build("squeezenet1.1", 2, 224, seed=0))
    assert not zoo.has_dropout(small_network())
