"""Class scores, calibration and confidence intervals follow from their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dist_ft.evaluation.assessment import weighted_statistics
from dist_ft.evaluation.calibration import NUM_BINS, reliability
from dist_ft.evaluation.confidence_intervals import bootstrap, wilson
from dist_ft.evaluation.confusion import (
    class_scores,
    most_frequent_mistake_by_class,
    most_frequent_mistakes,
)
from dist_ft.evaluation.predictions import COLUMNS

matrices = st.integers(2, 6).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 30), min_size=n, max_size=n), min_size=n, max_size=n)
)


@given(matrices)
def test_precision_recall_and_f1_follow_from_their_definitions(confusion):
    scores = class_scores(np.array(confusion, np.int64))
    for k, row in enumerate(confusion):
        correct, support, num_predicted = row[k], sum(row), sum(other[k] for other in confusion)
        assert (scores.support[k], scores.num_predicted[k]) == (support, num_predicted)
        assert scores.recall[k] == (correct / support if support else 0)
        assert scores.precision[k] == (correct / num_predicted if num_predicted else 0)
        total = scores.recall[k] + scores.precision[k]
        harmonic = 2 * scores.recall[k] * scores.precision[k] / total if total else 0
        assert scores.f1[k] == pytest.approx(harmonic)
    tested = [f1 for f1, row in zip(scores.f1, confusion) if sum(row)]
    assert scores.macro_f1 == pytest.approx(np.mean(tested) if tested else 0)


def test_the_most_frequent_mistakes_come_first():
    confusion = np.array([[9, 1, 0], [5, 9, 1], [0, 2, 9]])
    assert most_frequent_mistakes(confusion, 3) == [(1, 0, 5), (2, 1, 2), (0, 1, 1)]
    assert most_frequent_mistakes(np.diag([3, 4]), 3) == []
    mistakes = most_frequent_mistake_by_class(confusion)
    assert mistakes == [(0, 1, 1), (1, 0, 5), (2, 1, 2)]
    assert most_frequent_mistake_by_class(np.diag([3, 4]))[1].num_images == 0


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_a_proportion_solves_wilsons_equation(counts):
    """Its ends are the proportions from which the observed one is z standard errors away."""
    correct, num = counts
    z = stats.norm.ppf(0.975)
    for end in wilson(correct, num):
        distance = (correct / num - end) ** 2
        assert math.isclose(distance, z**2 * end * (1 - end) / num, rel_tol=1e-6, abs_tol=1e-12)


def test_the_bootstrap_of_a_proportion_agrees_with_wilsons_interval():
    """The ends differ by a few of the 1,000 images, the grain of a resampled proportion."""
    is_correct = np.arange(1000) < 730
    (ends,) = bootstrap(lambda weights: np.array([(weights @ is_correct) / weights.sum()]), 1000)
    np.testing.assert_allclose(ends, wilson(730, 1000), atol=0.004)


def test_the_bootstrap_covers_the_true_value_as_often_as_it_claims():
    """The means of 200 skewed samples of 100: 95 % of them, less three standard errors."""
    samples = np.random.default_rng(1).exponential(1, (200, 100))
    ends = bootstrap(lambda weights: samples @ weights / weights.sum(), 100, 400)
    num_covered = ((ends[:, 0] <= 1) & (ends[:, 1] >= 1)).sum()
    # One percent less: the mean of 100 skewed values is still a little skewed.
    assert num_covered / 200 > 0.95 - 0.01 - 3 * math.sqrt(0.95 * 0.05 / 200)
    assert num_covered < 200


@given(st.integers(0, 30), st.integers(2, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_every_statistic_lies_in_its_interval(num, num_classes, seed):
    random = np.random.default_rng(seed)
    table = np.zeros(num, COLUMNS)
    table["label"], table["predicted"] = random.integers(0, num_classes, (2, num))
    table["loss"], table["p_predicted"] = random.exponential(1, num), random.random(num)

    def statistics(weights):
        return weighted_statistics(table, num_classes, weights)

    observed = statistics(np.ones(num))
    ends = bootstrap(statistics, num, 50)
    assert (ends[:, 0] <= observed).all() and (observed <= ends[:, 1]).all()
    assert (ends == bootstrap(statistics, num, 50)).all()
    confusion = np.zeros((num_classes, num_classes), int)
    np.add.at(confusion, (table["label"], table["predicted"]), 1)
    scores = class_scores(confusion)
    error = reliability(table["label"] == table["predicted"], table["p_predicted"]).error
    loss = table["loss"].sum() / max(1, num)
    np.testing.assert_allclose(observed, [loss, error, scores.macro_f1, *scores.f1])


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), max_size=60))
@settings(deadline=None)
def test_the_calibration_error_follows_from_its_definition(pairs):
    is_correct = np.array([correct for correct, _ in pairs], bool)
    confidence = np.array([p for _, p in pairs], np.float32)
    result = reliability(is_correct, confidence)
    error = 0.0
    for m in range(NUM_BINS):
        in_bin = [(r, c) for r, c in pairs if m < c * NUM_BINS <= m + 1 or (m == 0 and c == 0)]
        if in_bin:
            accuracy, mean = np.mean(in_bin, axis=0)
            error += len(in_bin) / len(pairs) * abs(accuracy - mean)
    assert result.error == pytest.approx(error, abs=1e-9)
    assert result.num_images.sum() == len(pairs)
    twice = reliability(is_correct, confidence, np.full(len(pairs), 2.0))
    assert twice.error == pytest.approx(result.error, abs=1e-12)
