"""models.depth: every block counts once, from the head to the input."""

import pytest
from mxnet.gluon.model_zoo import vision

from dist_ft.models import parameters, zoo
from dist_ft.models.depth import depths
from dist_ft.models.mxnet_internals import parameters_by_path
from dist_ft.training import startup_summary
from dist_ft.training.schedule import Plan
from tests.networks import small_network


def network(name, is_gluoncv=False):
    if is_gluoncv:
        return pytest.importorskip("gluoncv").model_zoo.get_model(name, classes=5)
    return vision.get_model(name, classes=5)


@pytest.mark.parametrize(
    "name, is_gluoncv, num_units",
    [
        ("resnet18_v1", False, 1 + 8),  # the stem, and residual blocks
        ("resnet34_v2", False, 1 + 16),
        ("resnet18_v1b", True, 1 + 8),
        ("resnet50_v1d", True, 1 + 16),  # a stem of three convolutions
        ("se_resnext50_32x4d", True, 1 + 16),
        ("mobilenetv2_1.0", False, 1 + 17 + 1),  # the last convolution before pooling is a unit
        ("mobilenetv3_small", True, 1 + 11 + 2),
        ("densenet121", False, 1 + (6 + 12 + 24 + 16) + 3),  # and the transitions between stages
        ("mobilenet0.25", False, 1 + 2 * 13),  # no blocks: convolutions
        ("vgg11_bn", False, 8 + 2),  # convolutions and dense layers
        ("squeezenet1.0", False, 1 + 2 * 8),  # the two parts of a fire module
        ("inceptionv3", False, 5 + 11),  # convolutions, and modules of parallel branches
    ],
)
def test_the_units_of_a_network_are_its_blocks_from_the_input_to_the_head(
    name, is_gluoncv, num_units
):
    net = network(name, is_gluoncv)
    found, head = depths(net), zoo.head_prefix(net)
    of_backbone = [depth for path, depth in found.items() if not path.startswith(head)]
    assert of_backbone == sorted(of_backbone, reverse=True)
    assert set(of_backbone) == set(range(1, num_units + 1))
    assert {depth for path, depth in found.items() if path.startswith(head)} == {0}
    assert found.keys() == parameters_by_path(net).keys()


def test_batch_norm_belongs_to_the_convolution_before_it():
    found = depths(network("resnet34_v2"))
    stem = ("features.0.running_mean", "features.1.weight", "features.2.gamma")
    assert [found[path] for path in stem] == [17, 17, 17]
    assert found["features.5.0.conv1.weight"] == found["features.5.0.bn2.gamma"] == 16
    assert found["features.8.2.conv2.weight"] == found["features.9.gamma"] == 1


def test_the_layer_decay_multiplies_the_backbone_and_explicit_rules_override_it():
    net = network("resnet18_v1")
    parameters.set_lr_multipliers(net, 10.0, 2.0, ("^features.5.=7",), layer_decay=0.5)
    expected = {
        "output.weight": 10.0,
        "features.7.1.body.0.weight": 2 * 0.5,
        "features.7.0.body.0.weight": 2 * 0.5**2,
        "features.5.0.body.0.weight": 7.0,
        "features.0.weight": 2 * 0.5**9,
    }
    actual = parameters_by_path(net)
    assert {path: actual[path].lr_mult for path in expected} == expected


def test_a_run_starts_with_the_range_of_many_learning_rates(world):
    net = zoo.build("mobilenet0.25", 5, 32, seed=0)
    parameters.set_lr_multipliers(net, 10.0, 1.0, freeze=("^features.0",), layer_decay=0.9)
    plan = Plan(num_images=100, batch_size=10, epochs=1)
    trained = [path for path, p in parameters_by_path(net).items() if p.grad_req != "null"]
    of_features = [path for path in trained if path.startswith("features.")]
    num_values = sum(parameters.arrays(net)[path].size for path in of_features)
    _, *lines = startup_summary.describe_network("mobilenet", net, "float32", plan, 0.01, world)
    assert [" ".join(line.split()) for line in lines] == [
        "head 1,285 parameters learning rate 0.1",
        f"features {num_values:,} parameters learning rates 0.000581 to 0.009",  # 0.9**27 to 0.9
        "features 216 parameters frozen",
    ]


def test_without_a_layer_decay_all_of_the_backbone_has_one_multiplier():
    net = small_network()
    parameters.set_lr_multipliers(net, 10.0, 0.3)
    assert [group.lr_mult for group in parameters.groups(net)] == [10.0, 0.3]
