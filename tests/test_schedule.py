"""training.schedule: the steps of a run, and the learning rate of each."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ft.training.schedule import LearningRate, Plan, scale_batch


def rates(num, **settings):
    return [LearningRate(**settings).at(step) for step in range(num)]


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


def test_max_steps_shortens_a_run_and_never_lengthens_it():
    assert Plan(10, 5, 3).num_steps == 6
    assert Plan(10, 5, 3, max_steps=4).num_steps == 4
    assert Plan(10, 5, 3, max_steps=400).num_steps == 6


def test_epochs_from_yields_the_rest_of_the_epoch_and_of_the_run():
    plan = Plan(num_images=9, batch_size=4, epochs=3)
    assert list(plan.epochs_from(4)) == [(1, range(4, 6)), (2, range(6, 9))]
    assert list(plan.epochs_from(9)) == []
    assert list(plan.epochs_from(10)) == []
    assert list(Plan(9, 4, 3, max_steps=4).epochs_from(2)) == [(0, range(2, 3)), (1, range(3, 4))]


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
    uninterrupted = [(epoch, step) for epoch, steps in plan.epochs_from(0) for step in steps]
    stop = data.draw(st.integers(0, plan.num_steps))
    rest = [(epoch, step) for epoch, steps in plan.epochs_from(stop) for step in steps]
    assert len(uninterrupted) == plan.num_steps
    assert rest == uninterrupted[stop:]


def test_a_constant_rate_stays_at_the_peak():
    assert rates(5, peak=0.3, num_steps=5) == [0.3] * 5


def test_warm_up_rises_linearly_to_the_peak():
    expected = [0.1, 0.2, 0.3, 0.4, 0.4, 0.4]
    assert rates(6, peak=0.4, num_steps=6, warmup_steps=4) == pytest.approx(expected)


def test_the_step_schedule_multiplies_the_rate_at_each_given_step():
    steps = {"schedule": "step", "drop_steps": (2, 5)}
    expected = [1, 1, 0.1, 0.1, 0.1, 0.01]
    assert rates(6, peak=1, num_steps=6, **steps) == pytest.approx(expected)
    halved = rates(6, peak=1, num_steps=6, drop_factor=0.5, **steps)
    assert halved == pytest.approx([1, 1, 0.5, 0.5, 0.5, 0.25])
    with_warmup = rates(6, peak=1, num_steps=6, warmup_steps=2, **steps)
    assert with_warmup == pytest.approx([0.5, 1, 0.1, 0.1, 0.1, 0.01])


def test_cosine_falls_along_half_a_cosine_to_zero():
    root = math.sqrt(2)
    expected = [2, 1 + root / 2, 1, 1 - root / 2, 0]
    assert rates(5, peak=2, num_steps=4, schedule="cosine") == pytest.approx(expected)


def test_poly_falls_with_its_power():
    squared = rates(5, peak=1, num_steps=4, schedule="poly")
    assert squared == pytest.approx([1, 9 / 16, 1 / 4, 1 / 16, 0])
    linear = rates(5, peak=1, num_steps=4, schedule="poly", power=1)
    assert linear == pytest.approx([1, 0.75, 0.5, 0.25, 0])


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
    found = rates(
        num_steps,
        peak=1,
        num_steps=num_steps,
        schedule=schedule,
        warmup_steps=warmup_steps,
        drop_steps=tuple(drops),
    )
    assert all(0 <= rate <= 1 for rate in found)
    rising, falling = found[:warmup_steps], found[warmup_steps:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize("schedule", ["cosine", "poly"])
def test_the_decay_starts_at_the_peak_after_warm_up(schedule):
    with_warmup = rates(10, peak=1, num_steps=10, schedule=schedule, warmup_steps=4)
    without = rates(6, peak=1, num_steps=6, schedule=schedule)
    assert with_warmup[4:] == pytest.approx(without)


def test_a_batch_that_grows_with_the_ranks_scales_the_rate():
    assert scale_batch(200, 0.01, 4, "linear") == (800, pytest.approx(0.04))
    assert scale_batch(200, 0.01, 4, "sqrt") == (800, pytest.approx(0.02))
    assert scale_batch(200, 0.01, 4, "none") == (800, 0.01)
    for scaling in ("linear", "sqrt", "none"):
        assert scale_batch(200, 0.01, 1, scaling) == (200, 0.01)
