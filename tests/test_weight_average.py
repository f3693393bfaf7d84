"""models.weight_average: averages equal numpy's, are evaluated and saved, and resume exactly."""

from __future__ import annotations

from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest

from dist_ft.errors import UserError
from dist_ft.inference import model_evaluation, trained_model
from dist_ft.models import optimizers, parameters, zoo
from dist_ft.models.weight_average import WeightAverage, decay_at
from dist_ft.train import fit, train_step
from dist_ft.training import checkpoint
from tests.conftest import run_job
from tests.networks import device_batch, random_pixels, small_network
from tests.rounding import EPSILON
from tests.runs import arrays_of, rows_of, tiny_config
from tests.workers import runs

pytestmark = pytest.mark.usefixtures("no_figures")

DECAY, NUM_STEPS = 0.6, 5


def numpy_arrays(arrays):
    return {name: array.asnumpy() for name, array in arrays.items()}


def averages_of(run):
    """The bytes of (average, current values) in the last checkpoint, by path."""
    arrays = arrays_of(run)
    start = "current."
    return {
        name[len(start) :]: (arrays[name[len(start) :]], array)
        for name, array in arrays.items()
        if name.startswith(start)
    }


class Training:
    """Steps of a small network whose parameters are averaged."""

    def __init__(self, freeze=()):
        self.core = small_network()
        parameters.set_lr_multipliers(self.core, 1.0, 1.0, freeze=freeze)
        self.net = zoo.with_normalization(self.core)
        optimizer = optimizers.build("sgd", 0.9, 0.01)
        self.trainer = mx.gluon.Trainer(self.net.collect_params(), optimizer, kvstore=None)
        self.trainer.set_learning_rate(0.1)
        self.average = WeightAverage(self.core, DECAY)

    def step(self, step):
        batch = device_batch(random_pixels(seed=step), [0, 1, 2, 0, 1, 2], [1] * 6)
        train_step(self.net, self.trainer, batch, 6)
        self.average.update(step)
        return numpy_arrays(parameters.arrays(self.core))


def test_the_decay_is_the_one_of_timm():
    """ModelEmaV3(decay=0.9, use_warmup=True).get_decay(step + 1)."""
    decays = [decay_at(step, 0.9) for step in (0, 1, 2, 9, 30, 31, 1000)]
    expected = [0.0, 0.370039, 0.519250, 0.784557, 0.898665, 0.9, 0.9]
    assert decays == pytest.approx(expected, abs=1e-6)


def test_the_averages_are_those_of_numpy():
    training, expected = Training(), {}
    for step in range(NUM_STEPS):
        current = training.step(step)
        decay = min(DECAY, 1 - (1 + step) ** (-2 / 3))
        expected = {
            path: decay * expected.get(path, 0.0) + (1 - decay) * array.astype(np.float64)
            for path, array in current.items()
        }
    actual = numpy_arrays(training.average.net_arrays())
    assert actual.keys() == expected.keys()
    for path, array in expected.items():
        # A step rounds the two products and their sum; the factors were rounded to 2**-24.
        tolerance = 2 * NUM_STEPS * EPSILON * np.abs(array).max()
        np.testing.assert_allclose(actual[path], array, rtol=0, atol=tolerance, err_msg=path)
        assert (actual[path] != current[path]).any()


def test_the_evaluated_network_has_the_averages_and_training_continues_with_its_own():
    training, undisturbed = Training(), Training()
    pixels = mx.nd.array(random_pixels(seed=9), dtype="uint8")
    for step in range(NUM_STEPS):
        current, expected = training.step(step), undisturbed.step(step)
        assert all((current[path] == expected[path]).all() for path in expected)
        averages = numpy_arrays(training.average.net_arrays())
        with training.average.in_network():
            of_average = training.net(pixels).asnumpy()
            # The compiled graph of the training sees them, as a new network does.
            fresh = small_network(seed=1)
            for path, array in parameters.arrays(fresh).items():
                array[:] = averages[path]
            np.testing.assert_array_equal(
                of_average, zoo.with_normalization(fresh)(pixels).asnumpy()
            )
        after = numpy_arrays(parameters.arrays(training.core))
        assert all((after[path] == current[path]).all() for path in current)
    assert (of_average != training.net(pixels).asnumpy()).any()


def test_what_training_does_not_change_is_not_averaged():
    average = Training(freeze=(r"^features\.",)).average
    assert average.current_arrays().keys() == {"current.output.weight", "current.output.bias"}


def test_without_a_decay_nothing_is_averaged():
    core = small_network()
    average = WeightAverage(core, 0.0)
    average.update(0)
    assert average.current_arrays() == {}
    assert numpy_arrays(average.arrays()).keys() == parameters.arrays(core).keys()


@pytest.fixture(scope="module")
def config(tiny):
    """Two epochs of three steps, BatchNorm's statistics included."""
    return tiny_config(tiny, epochs=2, ema=0.9, layer_decay=0.8)


@pytest.fixture(scope="module")
def uninterrupted(config, world, tmp_path_factory):
    out = tmp_path_factory.mktemp("averaged") / "run"
    return fit(replace(config, out=str(out)), world)


def test_a_run_resumed_within_an_epoch_ends_with_the_same_bytes(
    config, world, uninterrupted, tmp_path
):
    for max_steps in (1, 4, 0):
        fit(replace(config, out=str(tmp_path), max_steps=max_steps), world)
        if max_steps == 1:  # the decay after the first step is 0
            assert all(net == current for net, current in averages_of(tmp_path).values())
    folder = uninterrupted.options.folder
    assert arrays_of(tmp_path) == arrays_of(folder)
    assert rows_of(tmp_path)[-1] == rows_of(folder)[-1]


def test_the_averages_are_evaluated_saved_and_returned(uninterrupted, config, world):
    averages = averages_of(uninterrupted.options.folder)
    of_run = numpy_arrays(parameters.arrays(uninterrupted.core))
    assert averages.keys() == of_run.keys()
    for path, (average, current) in averages.items():
        assert average != current
        assert average == of_run[path].tobytes()

    found = checkpoint.latest(uninterrupted.options.folder)
    model = trained_model.load(found.path)  # what predict, evaluate and export load
    test = model_evaluation.labeled_split(config.data, "test", model.classes)
    assessed = model_evaluation.assess(model.network(world), model, test, world, num_workers=2)
    assert assessed.scores.accuracy == found.state.selection_accuracy
    last = rows_of(uninterrupted.options.folder)[-1]
    assert assessed.scores.confusion.tolist() == last["confusion"]
    # The batches differ; a logit has 256 terms.
    assert assessed.scores.loss == pytest.approx(last["test_loss"], rel=256 * EPSILON)


def test_a_run_without_averages_is_not_resumed_with_them(config, world, tmp_path):
    config = replace(config, out=str(tmp_path), max_steps=1)
    fit(replace(config, ema=0.0), world)
    with pytest.raises(UserError, match=r"--ema: 0\.9 instead of 0\.0"):
        fit(config, world)


def test_a_head_trained_on_cached_features_is_averaged(config, world, tmp_path):
    config = replace(
        config, backbone_lr_mult=0.0, cache_dir=str(tmp_path / "cache"), out=str(tmp_path / "run")
    )
    run = fit(config, world)
    names = checkpoint.latest(run.options.folder).trainer_arrays().keys()
    averaged = {name for name in names if name.startswith("current.")}
    assert averaged == {"current.output.weight", "current.output.bias"}
    assert run.trained_net is not run.net


def assert_close_runs(actual, expected):
    # An update adds a sum of up to 24 terms, which the ranks group differently.
    tolerance = 6 * 24 * EPSILON
    found, reference = checkpoint.latest(actual), checkpoint.latest(expected)
    assert found.step == reference.step == 6
    arrays = {**found.net_arrays(), **found.trainer_arrays()}
    expected_arrays = {**reference.net_arrays(), **reference.trainer_arrays()}
    assert arrays.keys() == expected_arrays.keys()
    for name, array in numpy_arrays(expected_arrays).items():
        actual_array = arrays[name].asnumpy()
        np.testing.assert_allclose(actual_array, array, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.jobs
def test_any_number_of_ranks_has_the_same_averages_also_after_resuming(tiny, world, tmp_path):
    single, two, four = (tmp_path / name for name in ("single", "two", "four"))
    runs.train_averaged(world, str(tiny), single, str(single / "first_steps"))
    program = (
        "import sys; from pathlib import Path; from dist_ft.distributed import startup;"
        "from tests.workers import runs\n"
        "with startup.start('cpu', 60) as world:\n"
        "    runs.train_averaged(world, sys.argv[1], Path(sys.argv[2]), sys.argv[3])"
    )
    for num_ranks, out in ((2, two), (4, four)):
        words = ["-c", program, str(tiny), str(out), str(two / "first_steps")]
        ended = run_job(words, 240, num_ranks)
        assert ended.status == 0, ended.output
    assert arrays_of(two / "resumed") == arrays_of(two / "averaged")
    for run in (single / "resumed", two / "averaged", four / "averaged", four / "resumed"):
        assert_close_runs(run, single / "averaged")
