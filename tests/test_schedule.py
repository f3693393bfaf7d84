"""training.schedule: the steps of a run, and the learning rate of each."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ft.training.schedule import LearningRate, Plan, scale_batch


@pytest.mark.parametrize(
    "num_images, batch_size, steps", [(1000, 200, 5), (1001, 200, 6), (199, 200, 1), (0, 200, 0)]
)
def test_a_short_last_batch_is_a_step(num_images, batch_size, steps):
    assert Plan(num_images, batch_size, 1).steps_per_epoch == steps


@given(num_images=st.integers(1, 300), batch_size=st.integers(1, 70), epochs=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_every_epoch_takes_every_position_once_in_order(num_images, batch_size, epochs):
    plan = Plan(num_images, batch_size, epochs)
    for epoch, steps in plan.epochs_from(0):
        slices = [plan.images_of(step) for step in steps]
        positions = [i for part in slices for i in range(part.start, part.stop)]
        assert positions == list(range(num_images)), epoch
        assert all(plan.epoch_of(step) == epoch for step in steps)
        assert [plan.ends_epoch(step + 1) for step in steps] == [False] * (len(steps) - 1) + [True]


@given(
    num_images=st.integers(0, 50),
    batch_size=st.integers(1, 20),
    epochs=st.integers(1, 4),
    max_steps=st.integers(0, 30),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_a_run_stopped_at_any_step_makes_the_same_steps(
    num_images, batch_size, epochs, max_steps, data
):
    plan = Plan(num_images, batch_size, epochs, max_steps)
    total = epochs * plan.steps_per_epoch
    assert plan.num_steps == (min(total, max_steps) if max_steps else total)
    uninterrupted = [(epoch, step) for epoch, steps in plan.epochs_from(0) for step in steps]
    assert len(uninterrupted) == plan.num_steps
    stop = data.draw(st.integers(0, plan.num_steps + 1))
    rest = [(epoch, step) for epoch, steps in plan.epochs_from(stop) for step in steps]
    assert rest == uninterrupted[stop:]


ROOT = math.sqrt(2)
DROPS = {"schedule": "step", "drop_steps": (2, 5)}


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, [1, 1, 1, 1]),
        ({"warmup_steps": 4}, [0.25, 0.5, 0.75, 1, 1, 1]),
        (DROPS, [1, 1, 0.1, 0.1, 0.1, 0.01]),
        ({**DROPS, "drop_factor": 0.5}, [1, 1, 0.5, 0.5, 0.5, 0.25]),
        ({**DROPS, "warmup_steps": 2}, [0.5, 1, 0.1, 0.1, 0.1, 0.01]),
        ({"schedule": "cosine"}, [1, 0.5 + ROOT / 4, 0.5, 0.5 - ROOT / 4]),
        ({"schedule": "cosine", "warmup_steps": 2}, [0.5, 1, 1, 0.5]),
        ({"schedule": "poly"}, [1, 9 / 16, 1 / 4, 1 / 16]),
        ({"schedule": "poly", "power": 1}, [1, 0.75, 0.5, 0.25]),
        ({"schedule": "poly", "warmup_steps": 2}, [0.5, 1, 1, 0.25]),
    ],
)
def test_the_learning_rate_of_each_step(settings, expected):
    for peak in (1, 0.4):
        rate = LearningRate(peak, len(expected), **settings)
        rates = [rate.at(step) for step in range(len(expected))]
        assert rates == pytest.approx([peak * factor for factor in expected])


@given(
    schedule=st.sampled_from(["constant", "step", "cosine", "poly"]),
    num_steps=st.integers(1, 60),
    warmup_steps=st.integers(0, 60),
    drops=st.lists(st.integers(0, 60), max_size=3),
)
@settings(max_examples=100, deadline=None)
def test_a_rate_rises_then_falls_and_stays_between_zero_and_the_peak(
    schedule, num_steps, warmup_steps, drops
):
    warmup_steps = min(warmup_steps, num_steps)
    rate = LearningRate(1, num_steps, schedule, warmup_steps, tuple(drops))
    rates = [rate.at(step) for step in range(num_steps)]
    assert all(0 <= rate <= 1 for rate in rates)
    assert rates[:warmup_steps] == sorted(rates[:warmup_steps])
    assert rates[warmup_steps:] == sorted(rates[warmup_steps:], reverse=True)


def test_a_batch_that_grows_with_the_ranks_scales_the_rate():
    assert scale_batch(200, 0.01, 4, "linear") == (800, pytest.approx(0.04))
    assert scale_batch(200, 0.01, 4, "sqrt") == (800, pytest.approx(0.02))
    assert scale_batch(200, 0.01, 4, "none") == (800, 0.01)
    for scaling in ("linear", "sqrt", "none"):
        assert scale_batch(200, 0.01, 1, scaling) == (200, 0.01)
