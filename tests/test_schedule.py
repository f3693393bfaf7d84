"""schedule: steps that see every image once, and the rate at each of them."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ft.training.schedule import Plan, Rate, scaled


def rates(num, **settings):
    return [Rate(**settings).at(step) for step in range(num)]


@pytest.mark.parametrize(
    "num_images, batch_size, steps", [(1000, 200, 5), (1001, 200, 6), (199, 200, 1), (0, 200, 0)]
)
def test_a_short_last_batch_is_a_step(num_images, batch_size, steps):
    assert Plan(num_images, batch_size, 1).steps_per_epoch == steps


@given(num_images=st.integers(1, 300), batch_size=st.integers(1, 70), epochs=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_the_steps_of_an_epoch_take_every_position_once_in_order(num_images, batch_size, epochs):
    plan = Plan(num_images, batch_size, epochs)
    for epoch, steps in plan.epochs_from(0):
        slices = [plan.images_of(step) for step in steps]
        positions = [i for part in slices for i in range(part.start, part.stop)]
        assert positions == list(range(num_images)), epoch
        assert all(plan.epoch_of(step) == epoch for step in steps)
        assert all(1 <= part.stop - part.start <= batch_size for part in slices)


def test_the_last_step_of_101_images_has_one():
    assert Plan(101, 20, 3).images_of(5) == slice(100, 101)
    assert Plan(101, 20, 3).images_of(6) == slice(0, 20)


def test_max_steps_ends_a_run_early_and_never_late():
    assert Plan(10, 5, 3).num_steps == 6
    assert Plan(10, 5, 3, max_steps=4).num_steps == 4
    assert Plan(10, 5, 3, max_steps=400).num_steps == 6


def test_epochs_from_gives_what_is_left_of_the_epoch_and_of_the_run():
    plan = Plan(num_images=9, batch_size=4, epochs=3)
    whole = [(0, range(0, 3)), (1, range(3, 6)), (2, range(6, 9))]
    assert list(plan.epochs_from(0)) == whole
    assert list(plan.epochs_from(3)) == whole[1:]
    assert list(plan.epochs_from(4)) == [(1, range(4, 6)), whole[2]]
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
def test_a_run_stopped_anywhere_has_the_steps_of_one_that_was_not(
    num_images, batch_size, epochs, max_steps, data
):
    plan = Plan(num_images, batch_size, epochs, max_steps)
    whole = [(epoch, step) for epoch, steps in plan.epochs_from(0) for step in steps]
    stop = data.draw(st.integers(0, plan.num_steps))
    rest = [(epoch, step) for epoch, steps in plan.epochs_from(stop) for step in steps]
    assert len(whole) == plan.num_steps
    assert rest == whole[stop:]


def test_a_constant_rate_is_the_peak():
    assert rates(5, peak=0.3, num_steps=5) == [0.3] * 5


def test_warm_up_rises_in_equal_parts_and_ends_on_the_peak():
    table = [0.1, 0.2, 0.3, 0.4, 0.4, 0.4]
    assert rates(6, peak=0.4, num_steps=6, warmup_steps=4) == pytest.approx(table)


def test_the_step_schedule_lowers_the_rate_at_each_named_step():
    table = [1, 1, 0.1, 0.1, 0.1, 0.01]
    kind = {"kind": "step", "drop_steps": (2, 5)}
    assert rates(6, peak=1, num_steps=6, **kind) == pytest.approx(table)
    half = rates(6, peak=1, num_steps=6, drop_factor=0.5, **kind)
    assert half == pytest.approx([1, 1, 0.5, 0.5, 0.5, 0.25])
    both = rates(6, peak=1, num_steps=6, warmup_steps=2, **kind)
    assert both == pytest.approx([0.5, 1, 0.1, 0.1, 0.1, 0.01])


def test_cosine_is_half_a_wave_from_the_peak_to_nothing():
    found = rates(5, peak=2, num_steps=4, kind="cosine")
    root = math.sqrt(2)
    assert found == pytest.approx([2, 1 + root / 2, 1, 1 - root / 2, 0])


def test_poly_falls_by_its_power():
    assert rates(5, peak=1, num_steps=4, kind="poly") == pytest.approx(
        [1, 9 / 16, 1 / 4, 1 / 16, 0]
    )
    line = rates(5, peak=1, num_steps=4, kind="poly", power=1)
    assert line == pytest.approx([1, 0.75, 0.5, 0.25, 0])


@pytest.mark.parametrize("kind", ["cosine", "poly"])
def test_a_decay_begins_where_warm_up_ends(kind):
    warm = rates(10, peak=1, num_steps=10, kind=kind, warmup_steps=4)
    cold = rates(6, peak=1, num_steps=6, kind=kind)
    assert warm[:4] == pytest.approx([0.25, 0.5, 0.75, 1])
    assert warm[4:] == pytest.approx(cold)


@given(
    kind=st.sampled_from(["constant", "step", "cosine", "poly"]),
    num_steps=st.integers(1, 60),
    warmup_steps=st.integers(0, 60),
    drops=st.lists(st.integers(0, 60), max_size=3),
)
@settings(max_examples=100, deadline=None)
def test_a_rate_rises_then_falls_and_stays_between_nothing_and_its_peak(
    kind, num_steps, warmup_steps, drops
):
    warmup_steps = min(warmup_steps, num_steps)
    found = rates(
        num_steps,
        peak=1,
        num_steps=num_steps,
        kind=kind,
        warmup_steps=warmup_steps,
        drop_steps=tuple(drops),
    )
    assert all(0 <= rate <= 1 for rate in found)
    rising, falling = found[:warmup_steps], found[warmup_steps:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)


def test_a_batch_that_grows_with_the_ranks_scales_the_rate():
    assert scaled(200, 0.01, 4, "linear") == (800, pytest.approx(0.04))
    assert scaled(200, 0.01, 4, "sqrt") == (800, pytest.approx(0.02))
    assert scaled(200, 0.01, 4, "none") == (800, 0.01)
    for scaling in ("linear", "sqrt", "none"):
        assert scaled(200, 0.01, 1, scaling) == (200, 0.01)
