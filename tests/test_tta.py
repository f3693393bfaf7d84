"""Test-time augmentation: the mean probabilities of an image and its mirror image."""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest
from scipy import special

from dist_ft import evaluate as command
from dist_ft.inference import trained_model
from dist_ft.inference.model_evaluation import assess, labeled_split
from dist_ft.inference.tta import augmented, log_mean_probabilities
from dist_ft.models import zoo
from tests.networks import SMALL_NETWORK_TERMS, random_pixels, small_network
from tests.rounding import assert_close

PIXELS = random_pixels()
ROUNDINGS = 8  # of a log-softmax, a maximum, a difference, exp, log1p and two sums


def on_device(pixels):
    return mx.nd.array(pixels, dtype="uint8")


@pytest.fixture(scope="module")
def net():
    return zoo.with_normalization(small_network())


def test_the_logits_are_the_logarithms_of_the_mean_probabilities(net):
    logits = [net(on_device(x)).asnumpy() for x in (PIXELS, PIXELS[:, :, ::-1])]
    assert np.abs(logits[0] - logits[1]).max() > 0.01
    expected = np.log(np.mean([special.softmax(x, axis=1) for x in logits], axis=0))
    actual = augmented(net, "flip", 3)(on_device(PIXELS)).asnumpy()
    assert_close(actual, expected, SMALL_NETWORK_TERMS)


def test_the_prediction_for_a_symmetric_image_is_that_without(net):
    symmetric = on_device(np.concatenate([PIXELS, PIXELS[:, :, ::-1]], axis=2))
    alone = net(symmetric).log_softmax().asnumpy()
    assert_close(augmented(net, "flip", 3)(symmetric).asnumpy(), alone, SMALL_NETWORK_TERMS)
    assert augmented(net, "none", 3) is net


def test_certain_predictions_that_contradict_each_other_have_finite_logarithms():
    first, second = mx.nd.array([[500.0, 0.0, -90.0]]), mx.nd.array([[0.0, 500.0, -90.0]])
    actual = log_mean_probabilities(first, second).asnumpy()
    half = np.log(0.5)
    assert_close(actual, [[half, half, -590.0]], ROUNDINGS)


def test_columns_after_the_logits_are_those_of_the_image_itself(net):
    def with_columns(x):
        return mx.nd.concat(net(x), x[:, 0].flatten().astype("float32"), dim=1)

    actual = augmented(with_columns, "flip", 3)(on_device(PIXELS)).asnumpy()
    assert (actual[:, 3:] == PIXELS[:, 0].reshape(len(PIXELS), -1)).all()
    assert_close(actual[:, :3], augmented(net, "flip", 3)(on_device(PIXELS)).asnumpy(), 1)


def test_evaluate_notes_the_augmentation_in_its_results(trained_run, tiny, world, tmp_path, call):
    report = tmp_path / "report.json"
    status, output, _ = call(command, trained_run, tiny, "--tta", "flip", "--json", report)
    assert status == 0 and output.splitlines()[0].endswith("101 images, --tta flip")
    model = trained_model.load(trained_run)
    split = labeled_split(str(tiny), "test", model.classes)
    plain = assess(model.network(world), model, split, world, num_workers=2)
    results = json.loads(report.read_text())
    assert (results["tta"], plain.results["tta"]) == ("flip", "none")
    assert abs(results["loss"] - plain.results["loss"]) > 1e-4
