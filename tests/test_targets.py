"""data.targets and data.class_weights: what a batch is trained to predict, and its weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ft.data.class_weights import class_weights
from dist_ft.data.targets import TargetRule
from dist_ft.errors import UserError

EPS = float(np.finfo(np.float32).eps)
CLASSES = ("apple pie", "no", "été")
COUNTS = (1, 4, 10)


@st.composite
def batches(draw):
    """Labels, mask and partner shares of pairs; pairs with a masked image are not mixed."""
    num_pairs = draw(st.integers(0, 5))
    labels = draw(st.lists(st.integers(0, 3), min_size=2 * num_pairs, max_size=2 * num_pairs))
    mask = draw(st.lists(st.integers(0, 1), min_size=2 * num_pairs, max_size=2 * num_pairs))
    pair_shares = draw(st.lists(st.floats(0, 1, width=32), min_size=num_pairs, max_size=num_pairs))
    both = np.repeat(np.array(mask).reshape(-1, 2).all(axis=1), 2)
    share = np.where(both, np.repeat(pair_shares, 2), 0).astype(np.float32)
    return np.array(labels, np.int32), np.array(mask, np.float32), share


@given(batch=batches(), smoothing=st.floats(0, 1), weights=st.sampled_from([None, (0.2, 1, 2, 3)]))
@settings(max_examples=200, deadline=None)
def test_the_targets_of_an_image_add_up_to_its_weight(batch, smoothing, weights):
    labels, mask, share = batch
    targets = TargetRule(smoothing, weights).apply(labels, mask, 4, share)
    weight = np.ones(4) if weights is None else np.array(weights)
    partners = labels.reshape(-1, 2)[:, ::-1].ravel()
    expected = mask * ((1 - share) * weight[labels] + share * weight[partners])
    np.testing.assert_allclose(targets.values.sum(axis=1), expected, rtol=8 * EPS, atol=8 * EPS)
    assert (targets.values[mask == 0] == 0).all() and (targets.labels[mask == 0] == -1).all()
    # A mixed pair has the weight of its two images.
    assert targets.weight_sum == pytest.approx((mask * weight[labels]).sum(), rel=8 * EPS)
    if weights is None:
        assert targets.weight_sum == mask.sum()


def test_a_target_is_the_mixture_of_the_smoothed_labels():
    labels, mask = np.array([0, 2, 1, 1]), np.ones(4)
    share = np.array([0.75, 0.75, 0.25, 0.25], np.float32)
    targets = TargetRule(0.2, (1.0, 5.0, 2.0)).apply(labels, mask, 3, share)
    smooth = 0.2 / 3
    expected = [
        [0.8 * 0.25 + smooth * 1.75, smooth * 1.75, 0.8 * 1.5 + smooth * 1.75],
        [0.8 * 0.75 + smooth * 1.25, smooth * 1.25, 0.8 * 0.5 + smooth * 1.25],
        [smooth * 5, 4 + smooth * 5, smooth * 5],
        [smooth * 5, 4 + smooth * 5, smooth * 5],
    ]
    np.testing.assert_allclose(targets.values, expected, rtol=8 * EPS)
    assert list(targets.labels) == [2, 0, 1, 1]  # those with the larger share


def test_without_any_setting_targets_are_exactly_one_hot():
    targets = TargetRule().apply(np.array([2, 0, 1]), np.array([1, 1, 0]), 3)
    assert targets.values.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert targets.values.dtype == np.float32
    assert targets.weight_sum == 2


def test_balanced_weights_give_all_classes_the_same_sum_and_a_mean_of_1():
    weights = class_weights("balanced", CLASSES, COUNTS)
    np.testing.assert_allclose(weights * COUNTS, 5)
    np.testing.assert_allclose(class_weights("balanced", ("a", "b"), (0, 3)), [3, 1])


@pytest.mark.parametrize(
    "name, text",
    [
        ("weights.json", json.dumps({"apple pie": 3, "no": 0.5, "été": 1})),
        ("weights.yaml", "apple pie: 3\nno: 0.5\nété: 1.0\n"),
        ("weights.csv", "class,weight\napple pie, 3\nno,.5\nété,1e0\n"),
        ("weights.CSV", '\ufeff"apple pie",3\nno,0.5\n\ne\u0301te\u0301,1\n'),
    ],
)
def test_weights_are_read_from_a_file_and_normalized(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    weights = class_weights(str(tmp_path / name), CLASSES, COUNTS)
    np.testing.assert_allclose(weights, np.array([3, 0.5, 1]) * 15 / 15)
    np.testing.assert_allclose((weights * COUNTS).sum(), sum(COUNTS))


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.yaml", "apple pie: 1\npizza: 2\n", "no weight for no, été; no such class: pizza; name"),
        (
            "a.yaml",
            "apple pie: 1\nno: 0\nété: 1\n",
            "no has '0'; a weight must be a number above 0",
        ),
        ("a.yaml", "apple pie: 1\nno: much\nété: 1\n", "no has 'much'"),
        ("a.yaml", "[1, 2, 3]", "cannot be read .*maps every class to its weight"),
        ("a.yaml", "{", "cannot be read"),
        ("a.csv", "apple pie 1", "cannot be read"),
        ("b.yaml", None, "cannot be read .*No such file"),
    ],
)
def test_an_unusable_file_is_named_with_the_problem(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"--class-weights .*{name}: .*{message}"):
        class_weights(str(tmp_path / name), CLASSES, COUNTS)
