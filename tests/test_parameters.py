"""models.parameters and models.batch_norm: learning-rate multipliers and freezing."""

import mxnet as mx
import pytest

from dist_ft.errors import UserError
from dist_ft.models import batch_norm, parameters, zoo
from dist_ft.models.mxnet_internals import parameters_by_path
from dist_ft.train import train_step
from tests.networks import device_batch, random_pixels, small_network

CONVOLUTION, GAMMA, BETA = "features.0.weight", "features.1.gamma", "features.1.beta"
STATISTICS = {"features.1.running_mean", "features.1.running_var"}
HEAD = {"output.weight", "output.bias"}


def multipliers(net, head_lr_mult=10.0, backbone_lr_mult=1.0, **rules):
    parameters.set_lr_multipliers(net, head_lr_mult, backbone_lr_mult, **rules)
    return {
        path: 0.0 if p.grad_req == "null" else p.lr_mult
        for path, p in parameters_by_path(net).items()
        if path not in STATISTICS
    }


def changed_by_training(net):
    """The paths of the parameters and statistics that two training steps change."""
    before = {path: array.asnumpy() for path, array in parameters.arrays(net).items()}
    whole = zoo.with_normalization(net)
    optimizer = mx.optimizer.SGD(learning_rate=0.01, wd=0.1)
    trainer = mx.gluon.Trainer(whole.collect_params(), optimizer, kvstore=None)
    for step in range(2):
        batch = device_batch(random_pixels(seed=step), [0, 1, 2, 0, 1, 2], [1] * 6)
        train_step(whole, trainer, batch, 6)
    after = parameters.arrays(net)
    return {path for path in before if (before[path] != after[path].asnumpy()).any()}


@pytest.mark.parametrize(
    "rules, expected",
    [
        ({}, [1, 1, 1, 10, 10]),
        # later rules override earlier ones, and freeze overrides all
        (
            {"lr_mult": ("weight$=2", r"^features\.1\.=3", "output=4"), "freeze": ("gamma",)},
            [2, 0, 3, 4, 4],
        ),
        ({"lr_mult": (r"^features\.(?=0\.weight)=0.5",)}, [0.5, 1, 1, 10, 10]),
    ],
)
def test_rules_set_the_multipliers(rules, expected):
    paths = [CONVOLUTION, GAMMA, BETA, "output.weight", "output.bias"]
    assert multipliers(small_network(), **rules) == dict(zip(paths, expected))


@pytest.mark.parametrize(
    "rules, message",
    [
        ({"lr_mult": ("convv=1",)}, "matches no parameter; .*features.0.weight"),
        ({"freeze": ("convv",)}, "'convv': matches no parameter"),
        ({"freeze": (".",)}, "all parameters are frozen"),
        ({"head_lr_mult": 0, "backbone_lr_mult": 0}, "all parameters are frozen"),
    ],
)
def test_rules_that_match_nothing_or_freeze_everything_are_rejected(rules, message):
    with pytest.raises(UserError, match=message):
        multipliers(small_network(), **rules)


@pytest.mark.parametrize(
    "rules, expected",
    [
        ({}, {CONVOLUTION, GAMMA, BETA, *STATISTICS, *HEAD}),
        ({"freeze": (r"^features\.0\.",)}, {GAMMA, BETA, *STATISTICS, *HEAD}),
        ({"backbone_lr_mult": 0}, HEAD),
        ({"backbone_lr_mult": 0, "lr_mult": ("0.weight=1",)}, {CONVOLUTION, *HEAD}),
    ],
)
def test_training_changes_only_what_is_not_frozen(rules, expected):
    net = small_network()
    multipliers(net, **rules)
    assert changed_by_training(net) == expected
    assert parameters.has_frozen_backbone(net) == (expected == HEAD)


def test_a_backbone_that_normalizes_by_the_batch_is_not_frozen():
    net = small_network()
    multipliers(net, backbone_lr_mult=0, lr_mult=("running_mean=1",))
    assert not parameters.has_frozen_backbone(net)


def test_frozen_batch_norm_keeps_its_statistics_while_gamma_and_beta_learn():
    net = small_network()
    batch_norm.freeze(batch_norm.layers(net))
    assert changed_by_training(net) == {CONVOLUTION, GAMMA, BETA, *HEAD}


def test_groups_count_every_parameter_once():
    net = small_network()
    multipliers(net, lr_mult=("gamma=2",), freeze=(r"^features\.0\.",))
    assert parameters.groups(net) == [
        ("head", 10.0, 8 * 3 + 3),
        ("features", 2.0, 8),
        ("features", 1.0, 8),
        ("features", 0.0, 8 * 3 * 3 * 3),
    ]
