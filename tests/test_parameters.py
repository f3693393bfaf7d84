"""models.parameters: learning-rate multipliers and freezing."""

import mxnet as mx
import pytest

from dist_ft.errors import UserError
from dist_ft.models import batch_norm, parameters, zoo
from dist_ft.models.mxnet_internals import parameters_by_path
from dist_ft.train import train_step
from tests.networks import random_pixels, small_network

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
    labels, mask = mx.nd.array([0, 1, 2, 0, 1, 2]), mx.nd.ones(6)
    for step in range(2):
        x = mx.nd.array(random_pixels(seed=step), dtype="uint8")
        train_step(whole, trainer, (x, labels, mask), 6)
    after = parameters.arrays(net)
    return {path for path in before if (before[path] != after[path].asnumpy()).any()}


def test_head_and_backbone_have_their_multipliers():
    assert multipliers(small_network()) == {
        **{CONVOLUTION: 1.0, GAMMA: 1.0, BETA: 1.0},
        **{"output.weight": 10.0, "output.bias": 10.0},
    }


def test_later_rules_override_earlier_ones_and_freeze_overrides_all():
    rules = ("weight$=2", r"^features\.1\.=3", "output=4")
    assert multipliers(small_network(), lr_mult=rules, freeze=(r"gamma",)) == {
        **{CONVOLUTION: 2.0, GAMMA: 0.0, BETA: 3.0},
        **{"output.weight": 4.0, "output.bias": 4.0},
    }


def test_a_pattern_may_contain_an_equals_sign():
    by_path = multipliers(small_network(), lr_mult=(r"^features\.(?=0\.weight)=0.5",))
    assert [path for path, mult in by_path.items() if mult == 0.5] == [CONVOLUTION]


@pytest.mark.parametrize("rules", [{"lr_mult": ("convv=1",)}, {"freeze": ("convv",)}])
def test_a_pattern_that_matches_nothing_is_rejected_with_examples(rules):
    with pytest.raises(UserError, match=r"'convv': matches no parameter; .*features\.0\.weight"):
        multipliers(small_network(), **rules)


@pytest.mark.parametrize("rules", [{"freeze": (".",)}, {"head_lr_mult": 0, "backbone_lr_mult": 0}])
def test_freezing_everything_is_rejected(rules):
    with pytest.raises(UserError, match="all parameters are frozen"):
        multipliers(small_network(), **rules)


def test_without_freezing_everything_changes():
    net = small_network()
    multipliers(net)
    assert changed_by_training(net) == set(parameters.arrays(net))


def test_a_frozen_backbone_and_its_statistics_do_not_change():
    net = small_network()
    multipliers(net, backbone_lr_mult=0)
    assert changed_by_training(net) == HEAD


def test_only_the_frozen_part_stays_as_it_is():
    net = small_network()
    multipliers(net, freeze=(r"^features\.0\.",))
    assert changed_by_training(net) == {GAMMA, BETA, *STATISTICS, *HEAD}


def test_frozen_batch_norm_keeps_its_statistics_while_gamma_and_beta_learn():
    net = small_network()
    multipliers(net)
    batch_norm.freeze(batch_norm.layers(net))
    assert changed_by_training(net) == {CONVOLUTION, GAMMA, BETA, *HEAD}


def test_groups_count_every_parameter_once():
    net = small_network()
    multipliers(net, lr_mult=("gamma=2",), freeze=(r"^features\.0\.",))
    assert parameters.groups(net) == [
        ("head", 10.0, 2, 8 * 3 + 3),
        ("features", 2.0, 1, 8),
        ("features", 1.0, 1, 8),
        ("features", 0.0, 1, 8 * 3 * 3 * 3),
    ]
