"""models.backbone: the feature extractor and the head are the network in two parts."""

import mxnet as mx
import numpy as np
import pytest

from dist_ft.models import backbone, parameters, zoo
from dist_ft.models.mxnet_internals import parameters_by_path
from tests.networks import SMALL_NETWORK_TERMS, random_pixels, small_network
from tests.rounding import assert_close


def in_two_parts(net, x):
    return backbone.head(net)(backbone.feature_extractor(net)(x)).asnumpy()


def test_extractor_and_head_together_are_the_network():
    net = small_network()
    x = mx.nd.array(random_pixels(), dtype="uint8")
    expected = zoo.with_normalization(net)(x).asnumpy()
    assert np.ptp(expected) > 0
    assert_close(in_two_parts(net, x), expected, SMALL_NETWORK_TERMS)


def test_they_share_the_parameters_of_the_network():
    net = small_network()
    x = mx.nd.array(random_pixels(), dtype="uint8")
    extractor = backbone.feature_extractor(net)
    before = extractor(x).asnumpy()
    for parameter in parameters_by_path(net).values():
        parameter.set_data(parameter.data() + 0.5)
    assert (extractor(x).asnumpy() != before).any()
    expected = zoo.with_normalization(net)(x).asnumpy()
    assert_close(in_two_parts(net, x), expected, SMALL_NETWORK_TERMS)


def test_a_frozen_backbone_has_an_extractor():
    net = small_network()
    parameters.set_lr_multipliers(net, 10.0, backbone_lr_mult=0.0)
    assert backbone.frozen_feature_extractor(net) is not None


@pytest.mark.parametrize("trained", ["features.0.weight", "features.1.running_mean"])
def test_a_backbone_that_changes_has_no_frozen_extractor(trained):
    net = small_network()
    parameters.set_lr_multipliers(net, 10.0, 0.0, lr_mult=[f"{trained}=1"])
    assert backbone.frozen_feature_extractor(net) is None


def test_a_head_of_several_layers_has_no_extractor():
    assert backbone.feature_extractor(zoo.build("squeezenet1.1", 2, 224, seed=0)) is None
