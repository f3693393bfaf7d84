"""model: a new head on any zoo network, who learns at what rate, and what stays as it is."""

import os
import re
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn
from mxnet.gluon.data.vision import transforms

from dist_ft.errors import UserError
from dist_ft.models import zoo
from dist_ft.train import train_step

SMALL = "mobilenet0.25"


def build(name=SMALL, num_classes=3, side=32, seed=0):
    return zoo.build(name, num_classes, side, seed)


def pixels(n=6, side=32, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (n, side, side, 3)).astype(np.uint8)


def rates(net, **settings):
    zoo.set_rates(net, **{"head_lr_mult": 10.0, "backbone_lr_mult": 1.0, **settings})
    return {
        name: 0.0 if p.grad_req == "null" else p.lr_mult
        for name, p in zoo.parameters(net).items()
        if "running_" not in name
    }


@pytest.mark.parametrize(
    "name, head, weight",
    [
        ("resnet18_v1", "output.", (5, 512)),
        ("resnet18_v2", "output.", (5, 512)),
        ("mobilenet0.25", "output.", (5, 256)),
        ("mobilenetv2_0.25", "output.", (5, 1280, 1, 1)),
        ("squeezenet1.1", "output.", (5, 512, 1, 1)),
        ("cifar_resnet20_v1", "output.", (5, 64)),  # gluoncv's alone, as are the next two
        ("mobilenetv3_small", "output.", (5, 1280, 1, 1)),
        ("resnet18_v1b", "fc.", (5, 512)),
    ],
)
def test_a_zoo_network_has_a_head_of_our_classes(name, head, weight):
    side = 224 if name == "squeezenet1.1" else 32
    net = build(name, num_classes=5, side=side)
    assert net(mx.nd.zeros((2, 3, side, side))).shape == (2, 5)
    assert zoo.head_of(net) == head
    shapes = [p.shape for key, p in zoo.parameters(net).items() if key.startswith(head)]
    assert weight in shapes


def test_names_are_taken_in_any_case():
    assert build("MobileNet0.25")(mx.nd.zeros((1, 3, 32, 32))).shape == (1, 3)


@pytest.mark.parametrize(
    "name, near", [("resnet34v2", "resnet34_v2"), ("mobilnet1.0", "mobilenet1.0")]
)
def test_an_unknown_name_is_told_with_those_near_it(name, near):
    with pytest.raises(UserError, match=f"--model {name}: no such network; near it: .*{near}"):
        build(name)


def test_a_name_that_is_like_no_other_is_told():
    with pytest.raises(UserError, match="near it: none"):
        build("qqqqqqqqqqqqqqq")


@pytest.mark.parametrize(
    "name",
    ["ssd_300_vgg16_atrous_voc", "simple_pose_resnet18_v1b", "siamrpn_alexnet_v2_otb15"],
)
def test_a_network_that_is_no_classifier_is_refused(name):
    with pytest.raises(UserError, match=rf"--model {name}: (not a classifier|its last layer)"):
        build(name)


def test_a_detector_that_would_fetch_weights_is_refused():
    """In a process that reaches nothing: where there is a network it would download them."""
    code = (
        "from dist_ft import errors\nfrom dist_ft.models import zoo\n"
        "try: zoo.build('yolo3_darknet53_voc', 3, 32, 0)\n"
        "except errors.UserError as error: print(error)"
    )
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    environment = {**os.environ, **nowhere, "MXNET_HOME": "/nonexistent/mxnet"}
    command = [sys.executable, "-c", code]
    made = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "--model yolo3_darknet53_voc: not a classifier" in made.stdout, made.stderr


def test_an_image_size_that_does_not_pass_through_is_told_with_the_size():
    with pytest.raises(
        UserError, match="--model alexnet with --image-size 16: the network does not"
    ):
        build("alexnet", side=16)


def test_each_build_names_its_parameters_alike_whatever_was_built_before():
    first = build()
    nn.Dense(3)  # shifts gluon's own counter
    second = build()
    for collect in (zoo.parameters, lambda net: net.collect_params()):
        assert list(collect(first)) == list(collect(second))
    assert [p.name for p in zoo.parameters(first).values()] == [
        p.name for p in zoo.parameters(second).values()
    ]


def test_a_seed_draws_the_same_network_again():
    weights = [
        np.concatenate([a.asnumpy().ravel() for a in zoo.arrays(build(seed=seed)).values()])
        for seed in (1, 1, 2)
    ]
    assert (weights[0] == weights[1]).all()
    assert (weights[0] != weights[2]).any()


def test_the_head_learns_faster_than_the_features():
    found = rates(build())
    assert {mult for name, mult in found.items() if name.startswith("output.")} == {10.0}
    assert {mult for name, mult in found.items() if name.startswith("features.")} == {1.0}


def test_a_later_rule_wins_over_an_earlier_one_and_freeze_over_all():
    rules = ("weight$=2", r"^features\.0\.=3", "output=4")
    found = rates(build(), lr_mult=rules, freeze=(r"^features\.0\.weight",))
    assert found["features.0.weight"] == 0.0
    assert found["features.1.gamma"] == 1.0
    assert found["features.3.weight"] == 2.0
    assert found["output.weight"] == found["output.bias"] == 4.0


def test_a_pattern_is_a_regular_expression_and_may_hold_a_sign_of_equality():
    found = rates(build(), lr_mult=(r"^features\.(?=0\.weight)=0.5",))
    assert [name for name, mult in found.items() if mult == 0.5] == ["features.0.weight"]


@pytest.mark.parametrize("rule", [{"lr_mult": ("convv=1",)}, {"freeze": ("convv",)}])
def test_a_pattern_that_matches_nothing_is_told_with_real_names(rule):
    with pytest.raises(
        UserError, match=r"pattern 'convv' .*their names are like features\.0\.weight"
    ):
        rates(build(), **rule)


def test_everything_frozen_is_refused():
    for settings in ({"freeze": (".",)}, {"head_lr_mult": 0, "backbone_lr_mult": 0}):
        with pytest.raises(UserError, match="nothing is left to train"):
            rates(build(), **settings)


def train(net, steps=2):
    """Real steps of a real trainer; returns the parameters' arrays before and after."""
    before = {name: array.asnumpy() for name, array in zoo.arrays(net).items()}
    whole = zoo.on_pixels(net)
    trainer = mx.gluon.Trainer(
        whole.collect_params(), mx.optimizer.SGD(learning_rate=0.01, wd=0.1), kvstore=None
    )
    labels, mask = mx.nd.array([0, 1, 2, 0, 1, 2]), mx.nd.ones(6)
    for step in range(steps):
        x = mx.nd.array(pixels(seed=step), dtype="uint8")
        train_step(whole, trainer, (x, labels, mask), images_per_rank=6)
    return before, {name: array.asnumpy() for name, array in zoo.arrays(net).items()}


def moved(before, after):
    return {name for name in before if (before[name] != after[name]).any()}


def test_frozen_features_do_not_move_nor_do_their_statistics():
    net = build()
    rates(net, backbone_lr_mult=0)
    assert moved(*train(net)) == {"output.weight", "output.bias"}


def test_a_part_that_is_frozen_stays_while_the_rest_moves():
    net = build()
    rates(net, freeze=(r"^features\.[0-5]\.",))
    before, after = train(net)
    still = {name for name in before if re.match(r"features\.[0-5]\.", name)}
    assert len(still) > 8
    assert moved(before, after) == set(before) - still


def test_without_freezing_everything_moves():
    net = build()
    rates(net)
    before, after = train(net)
    assert moved(before, after) == set(before)


def test_frozen_batch_norm_keeps_its_statistics_while_its_scale_learns():
    net = build()
    rates(net)
    zoo.freeze_batch_norm(zoo.batch_norms(net))
    before, after = train(net)
    assert moved(before, after) == {name for name in before if "running_" not in name}


def test_normalisation_is_gluons_to_tensor_and_normalize():
    x = mx.nd.array(pixels(), dtype="uint8")
    theirs = transforms.Compose([transforms.ToTensor(), transforms.Normalize(zoo.MEAN, zoo.STD)])
    expected = np.stack([theirs(image).asnumpy() for image in x])
    found = zoo.Normalize()(x).asnumpy()
    assert (found.dtype, found.shape) == (np.float32, (6, 3, 32, 32))
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_whole_network_takes_pixels():
    net = build()
    x = mx.nd.array(pixels(), dtype="uint8")
    expected = net(zoo.Normalize()(x)).asnumpy()
    assert zoo.on_pixels(net)(x).asnumpy() == pytest.approx(expected, abs=1e-5)
