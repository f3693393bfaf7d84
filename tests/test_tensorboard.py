"""What TensorBoard shows of real runs, by one process and by two ranks."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.util.tensor_util import make_ndarray

from dist_ft.config import Config
from dist_ft.data.image_folder import scan
from dist_ft.data.rank_batches import load_test_image
from dist_ft.data.transforms import InputSpec
from dist_ft.distributed.world import World
from dist_ft.models.mxnet_internals import parameters_by_path
from dist_ft.tracking import tensorboard_plugins
from dist_ft.train import fit
from tests.browser import needs_chromium
from tests.conftest import BIN, ENVIRONMENT, TINY, train
from tests.networks import normalized_mobilenet

pytestmark = pytest.mark.jobs

ALL_EVENTS = {"scalars": 0, "images": 0, "tensors": 0, "histograms": 0}
SPEC = InputSpec(32, 37, False)
ODD_NAME = "class_e\tor\nelse"  # with the separators of columns and rows


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """The same run by one process and by two ranks; at learning rate 0, so parameters stay."""
    root = tmp_path_factory.mktemp("runs")
    data = root / "data"
    shutil.copytree(tiny, data)
    for split in ("train", "test"):
        (data / split / "class_e").rename(data / split / ODD_NAME)
    settings = {"model": "mobilenet0.25", "image_size": 32, "batch_size": 24, "num_workers": 2}
    settings.update(data=str(data), device="cpu")
    weights, logs = str(root / "net.params"), root / "logs"
    dataset = scan(str(data))
    normalized_mobilenet(5, pixels_of(dataset.test)).save_parameters(weights)
    world = World("cpu", stall_timeout_s=300)
    settings.update(weights=weights, epochs=1, lr=0.0, bn="frozen", histograms=True)
    one = fit(Config(out=str(logs / "one"), **settings), world)
    world.close()
    flags = ["--data", str(data), "--weights", weights, "--out", str(logs / "two")]
    flags += ["--lr", "0", "--bn", "frozen", "--histograms"]
    train(*TINY, *flags, num_ranks=2)  # later flags win
    return SimpleNamespace(one=one, logs=logs, data=data, dataset=dataset)


def pixels_of(split):
    """(images, 32, 32, 3), as the network is tested on them."""
    return np.stack([load_test_image(split, index, SPEC) for index in range(len(split))])


@pytest.fixture(scope="module")
def events(runs):
    """The events of one process, and of two ranks."""
    return [read_events(runs.logs / name / "tensorboard") for name in ("one", "two")]


def read_events(folder):
    events = EventAccumulator(str(folder), size_guidance=ALL_EVENTS)
    events.Reload()
    return events


@pytest.fixture(scope="module")
def probabilities(runs):
    """(101, C), of the test images, by the network in memory."""
    pixels = pixels_of(runs.dataset.test)
    return runs.one.net(mx.nd.array(pixels, dtype="uint8")).softmax().asnumpy()


def test_precision_recall_curves_do_not_depend_on_the_number_of_ranks(runs, events, probabilities):
    labels = np.array(runs.dataset.test.labels)
    assert len(np.unique(np.floor(probabilities * 126))) > 30
    for label, name in enumerate(runs.dataset.classes):
        tag = f"precision_recall/{name}"
        one, two = (make_ndarray(of_run.Tensors(tag)[0].tensor_proto) for of_run in events)
        assert one.shape == (6, 127) and (one == two).all()
        above = probabilities[:, label].astype(np.float64)[:, None] * 126 >= np.arange(127)
        is_label = (labels == label)[:, None]
        counts = [above & is_label, above & ~is_label, ~above & ~is_label, ~above & is_label]
        assert (one[:4] == [part.sum(axis=0) for part in counts]).all()
        np.testing.assert_allclose(one[4], one[0] / np.maximum(one[0] + one[1], 1), rtol=1e-6)
        np.testing.assert_allclose(one[5], one[0] / is_label.sum(), rtol=1e-6)


def test_worst_mistakes_do_not_depend_on_the_number_of_ranks(events):
    pictures = [of_run.Images("mistakes")[0].encoded_image_string for of_run in events]
    one, two = (np.asarray(Image.open(io.BytesIO(picture))) for picture in pictures)
    assert (one == two).all() and len(np.unique(one)) > 100


def test_histograms_show_every_parameter_and_its_mean_gradient(runs, events):
    num_last_step = 53 - 2 * 24  # images in the last step
    expected = {}
    for name, parameter in parameters_by_path(runs.one.core).items():
        tag = name.replace(".", "/", 1)
        expected[f"weights/{tag}"] = parameter.data().asnumpy()
        if parameter.grad_req != "null":
            expected[f"gradients/{tag}"] = parameter.grad().asnumpy() / num_last_step
    assert sum(tag.startswith("gradients/") for tag in expected) > 50
    for of_run in events:
        assert set(of_run.Tags()["histograms"]) == set(expected)
        for tag, values in expected.items():
            (event,) = of_run.Histograms(tag)
            histogram = event.histogram_value
            assert histogram.num == sum(histogram.bucket) == values.size
            ends = pytest.approx((values.min(), values.max()), rel=1e-3, abs=1e-5)
            assert (histogram.min, histogram.max) == ends, tag


@pytest.mark.parametrize("run", ["one", "two"])
def test_the_projector_has_features_names_and_a_thumbnail_of_each_image(runs, probabilities, run):
    folder, dataset = runs.logs / run / "tensorboard", runs.dataset
    text = (folder / "projector_config.pbtxt").read_text()
    (embedding,) = text_format.Parse(text, ProjectorConfig()).embeddings
    features = np.loadtxt(folder / embedding.tensor_path, delimiter="\t")
    lines = (folder / embedding.metadata_path).read_text().split("\n")[:-1]
    rows = [line.split("\t") for line in lines]
    assert features.shape == (101, 256)
    assert rows.pop(0) == tensorboard_plugins.COLUMNS
    names = [name.replace("\t", r"\t").replace("\n", r"\n") for name in dataset.classes]
    assert [row[0] for row in rows] == [names[label] for label in dataset.test.labels]
    assert [row[1] for row in rows] == [names[label] for label in probabilities.argmax(axis=1)]
    # The head turns the features into the logits of the network.
    weight, bias = (p.data().asnumpy() for p in runs.one.core.output.params.values())
    softmax = mx.nd.array(features @ weight.T + bias).softmax().asnumpy()
    np.testing.assert_allclose(softmax, probabilities, atol=1e-3)
    with Image.open(folder / embedding.sprite.image_path) as sheet:
        assert sheet.size == (11 * 48, 11 * 48)  # the smallest square grid for 101 images
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    image = load_test_image(dataset.test, 12, SPEC)
    tile = pixels[48:96, 48:96]  # second row, second column
    assert abs(tile.mean(axis=(0, 1)) - image.mean(axis=(0, 1))).max() < 2


@pytest.fixture(scope="module")
def server(runs):
    """The address of a TensorBoard for the folder of both runs."""
    command = [str(BIN / "tensorboard"), "--logdir", str(runs.logs), "--port", "0"]
    command += ["--host", "127.0.0.1"]
    job = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    for line in job.stderr:
        address = re.search(r"http://127.0.0.1:\d+/", line)
        if address:
            break
    else:
        pytest.fail("TensorBoard has ended")
    yield address[0]
    job.terminate()
    job.wait(timeout=20)


# A text on each page, and how many colored pixels its charts have at least.
PAGES = {
    "scalars": ("best/test_accuracy", 100),
    "images": ("mistakes 2", 10_000),
    "pr_curves": ("precision_recall/class_a", 500),
    "hparams": ("mobilenet0.25", 0),
    "histograms": ("gradients", 5000),
    "projector": ("Points: 101 Dimension: 256", 1000),
}


@needs_chromium
@pytest.mark.browser
@pytest.mark.parametrize("page", PAGES)
def test_chromium_shows_each_page_of_tensorboard_without_errors(browser, server, page):
    text, num_colored = PAGES[page]
    browser.open(f"{server}#{page}")
    browser.wait_for(text)
    browser.wait_until_still()
    picture = browser.screenshot(f"tensorboard-{page}")
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"))[120:, 450:].astype(int)  # without the sidebar
    assert ((pixels.max(axis=2) - pixels.min(axis=2)) > 60).sum() >= num_colored
    assert browser.errors() == []
