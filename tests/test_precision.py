"""precision: a scaled loss gives the unscaled step, and no step is left out for an overflow."""

import mxnet as mx
import numpy as np
import pytest

from dist_ft.distributed import launcher
from dist_ft.distributed.startup import World
from dist_ft.errors import UserError
from dist_ft.models import optimizers, precision, zoo
from dist_ft.models.precision import UNSCALED, LossScale
from dist_ft.train import train_step


def a_step(scale, clip_norm=0.0, magnitude=3):
    """Parameters after a step, and its sums."""
    mx.random.seed(0)
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Flatten(), mx.gluon.nn.Dense(4, activation="relu"), mx.gluon.nn.Dense(3))
    net.initialize(mx.init.Xavier(magnitude=magnitude))
    net(mx.nd.zeros((1, 3, 8, 8)))
    trainer = mx.gluon.Trainer(net.collect_params(), optimizers.build("sgd", 0.9, 0.01))
    trainer.set_learning_rate(0.5)
    pixels = np.random.RandomState(0).randint(0, 256, (6, 8, 8, 3))
    x, labels = mx.nd.array(pixels, dtype="uint8"), mx.nd.array([0, 1, 2, 0, 1, 1])
    mask = mx.nd.array([1, 1, 1, 1, 1, 0])
    sums = train_step(zoo.on_pixels(net), trainer, (x, labels, mask), 5, 0.1, clip_norm, scale)
    return [array.asnumpy() for array in (*zoo.arrays(net).values(), sums)]


LARGE = 3e14  # of weights, so that gradients are large


@pytest.mark.parametrize("magnitude", [3, LARGE])
@pytest.mark.parametrize("value", [1.0, 2.0**16, 2.0**60, 2.0**112])
def test_a_scaled_loss_gives_the_step_of_an_unscaled_one(value, magnitude):
    """A power of two moves the point only, but for numbers that are lost to the left of it."""
    scale = LossScale(value)
    for found, expected in zip(a_step(scale, 0, magnitude), a_step(UNSCALED, 0, magnitude)):
        assert np.allclose(found, expected, rtol=1e-6, atol=1e-7 * abs(expected).max())
    assert scale.good_steps == 1


def test_a_gradient_is_clipped_to_the_same_norm_whatever_the_scale():
    for found, expected in zip(a_step(LossScale(), 0.01), a_step(UNSCALED, 0.01)):
        assert np.allclose(found, expected, rtol=1e-5)


def test_the_scale_is_halved_until_the_gradients_are_finite_and_stays():
    scale = LossScale(2.0**112)
    a_step(scale, magnitude=LARGE)
    settled = scale.value
    assert 2.0**80 < settled < 2.0**112
    a_step(scale, magnitude=LARGE)
    assert (scale.value, scale.good_steps) == (settled, 2)


def test_the_scale_is_doubled_after_enough_good_steps_and_never_beyond_its_bound():
    ones = [mx.nd.ones(3)]
    scale = LossScale(2.0**22)
    for _ in range(4 * LossScale.GROWS_AFTER):
        assert scale.fits(ones)
    assert scale.value == LossScale.LARGEST
    assert not scale.fits([mx.nd.ones(3), mx.nd.array([1, np.inf])])
    assert (scale.value, scale.good_steps) == (LossScale.LARGEST / 2, 0)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_gradients_that_no_scale_makes_finite_end_the_search(value):
    """The step's loss is then not finite either, which stops the run."""
    scale = LossScale()
    tries = 1
    while not scale.fits([mx.nd.array([value])]):
        tries += 1
    assert (scale.value, tries) == (1.0, 17)


def test_a_type_is_refused_where_the_device_has_none():
    with pytest.raises(UserError, match=r"--dtype bfloat16: takes a CPU with .* not gpu\(0\)"):
        precision.use_dtype("bfloat16", mx.gpu(0))
    with pytest.raises(UserError, match=r"--dtype float16: takes a GPU, not cpu\(0\) here"):
        precision.use_dtype("float16", mx.cpu())


def test_a_process_that_computes_in_a_type_takes_no_other(monkeypatch):
    monkeypatch.setattr(precision, "_used", {"bfloat16"})
    precision.use_dtype("bfloat16", mx.cpu())
    for other in ("float32", "float16"):
        with pytest.raises(UserError, match=f"--dtype {other}: this process computes in bfloat16"):
            precision.use_dtype(other, mx.cpu())


def test_the_type_that_is_chosen_is_one_that_the_device_has():
    world = World("cpu", 300)
    assert precision.choose(world) in (
        "float32",
        "bfloat16" if launcher.has_bfloat16() else "float32",
    )
    world.close()
