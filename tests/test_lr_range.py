"""diagnostics.lr_range: the rates, the end of the test, and the suggestion."""

import itertools
import json
import math

import numpy as np
import pytest
from PIL import Image

from dist_ft.diagnostics import lr_range
from dist_ft.errors import UserError
from tests.conftest import TINY, run_job
from tests.rounding import EPSILON


def quadratic(curvature, noise=0.02):
    """A step of gradient descent on curvature * w**2 / 2, which diverges above 2 / curvature."""
    w, random = 1.0, np.random.RandomState(0)

    def loss_at(rate):
        nonlocal w
        loss = curvature * w * w / 2 * math.exp(noise * random.normal())
        w -= rate * curvature * w
        return loss + 0.1

    return loss_at


@pytest.mark.parametrize("curvature", [20.0, 200.0])
def test_the_suggestion_is_a_rate_at_which_the_loss_falls(curvature):
    result = lr_range.measure(quadratic(curvature), 100)
    assert lr_range.LOWEST < result["suggestion"] < result["minimum"] < 2 / curvature


def test_the_suggestion_is_where_the_loss_falls_most_from_one_rate_to_the_next():
    rates, smoothed = [0.001, 0.01, 0.1, 1.0, 10.0], [2.0, 1.8, 1.0, 0.9, 0.8]
    suggested = lr_range.suggest(rates, smoothed)  # slopes: -0.2, -0.5, -0.45, -0.1, -0.1
    assert suggested == {"suggestion": 0.01, "minimum": 10.0}
    after_the_minimum = [*smoothed, 5.0, 0.95]
    assert lr_range.suggest([*rates, 100.0, 1000.0], after_the_minimum) == suggested


def test_the_test_ends_when_the_loss_grows():
    result = lr_range.measure(quadratic(200.0), 100)
    *before, last = result["smoothed"]
    assert last > 4 * min(before)
    assert len(result["rates"]) == len(result["losses"]) < 100
    whole = lr_range.measure(quadratic(1.0), 100)
    assert whole["rates"][0] == pytest.approx(1e-5) and whole["rates"][-1] == pytest.approx(1)
    ratios = np.divide(whole["rates"][1:], whole["rates"][:-1])
    np.testing.assert_allclose(ratios, 10 ** (5 / 99))


def test_a_loss_that_is_not_finite_ends_the_test_and_is_left_out():
    losses = itertools.chain([1.0, 0.9, 0.8, math.nan], itertools.repeat(0.0))
    assert lr_range.measure(lambda rate: next(losses), 10)["losses"] == [1.0, 0.9, 0.8]
    with pytest.raises(UserError, match="the loss of the first step is not finite"):
        lr_range.measure(lambda rate: math.inf, 10)


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_few_steps_and_a_loss_that_never_falls_give_a_rate_of_the_range(num_steps):
    result = lr_range.measure(lambda rate: 1 + rate, num_steps)
    assert result["rates"][0] <= result["suggestion"] <= result["rates"][-1]


def test_the_report_ends_with_the_suggestion():
    result = lr_range.measure(quadratic(20.0), 100)
    last = lr_range.report(result).splitlines()[-1]
    assert last == f"suggestion: --lr {result['suggestion']:.2g}"


@pytest.mark.jobs
def test_one_and_two_ranks_measure_the_same_losses_and_write_a_plot(tiny, tmp_path):
    plot, json_file = tmp_path / "plot.png", tmp_path / "results.json"
    words = ["-m", "dist_ft.bench", "lr", "--np", "1,2", "--steps", "12", "--data", str(tiny)]
    words += [*TINY, "--bn", "frozen", "--plot", str(plot), "--json", str(json_file)]
    ended = run_job(words, 120)
    assert ended.status == 0, ended.output
    assert ended.output.count("suggestion: --lr ") == 2
    assert ended.output.count("learning rate 1.00e-05  loss ") == 2  # of rank 0 only
    one, two = json.loads(json_file.read_text()).values()
    for rate, loss, expected in zip(one["rates"], two["losses"], one["losses"]):
        if rate < 0.01:  # larger steps amplify rounding
            assert loss == pytest.approx(expected, rel=12 * 24 * EPSILON)
    assert 1e-5 <= one["suggestion"] <= 1
    assert np.asarray(Image.open(plot).convert("L")).std() > 0
