"""What TensorBoard shows of real runs, on one rank and on two, read back and looked at."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from types import SimpleNamespace
from urllib.request import Request, urlopen

import mxnet as mx
import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.util.tensor_util import make_ndarray
from tensorboardX.proto.graph_pb2 import GraphDef

from dist_ft.config import Config
from dist_ft.data.image_folder import scan
from dist_ft.data.rank_batches import load_test_image
from dist_ft.data.transforms import InputSpec
from dist_ft.distributed.startup import World
from dist_ft.models import zoo
from dist_ft.models.mxnet_internals import parameters_by_path
from dist_ft.tracking import graph as diagram
from dist_ft.tracking import projector
from dist_ft.train import fit
from tests.browser import needs_chromium
from tests.conftest import BIN, ENVIRONMENT, TINY, train
from tests.networks import settled

EVERYTHING = {"scalars": 0, "images": 0, "tensors": 0, "histograms": 0}
VIEWS = InputSpec(32, 37, False)
ODD = "class_e\tor\nelse"  # a tab and a new line: what separates columns and rows


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """The same run by one process and by two ranks, with parameters that stay as they are."""
    root = tmp_path_factory.mktemp("runs")
    data = root / "data"
    shutil.copytree(tiny, data)
    for split in ("train", "test"):
        (data / split / "class_e").rename(data / split / ODD)
    settings = {"model": "mobilenet0.25", "image_size": 32, "batch_size": 24, "num_workers": 2}
    settings.update(data=str(data), device="cpu")
    weights, logs = str(root / "net.params"), root / "logs"
    settled(5, pixels_of(scan(str(data)).test)).save_parameters(weights)
    world = World("cpu", stall_timeout=300)
    settings.update(weights=weights, epochs=1, lr=0.0, bn="frozen", histograms=True)
    one = fit(Config(out=str(logs / "one"), **settings), world)
    world.close()
    flags = ["--data", str(data), "--weights", weights, "--out", str(logs / "two")]
    flags += ["--lr", "0", "--bn", "frozen", "--histograms"]
    train(*without(TINY, "--weights", "--lr"), *flags, num_ranks=2)
    return SimpleNamespace(one=one, logs=logs, data=data)


def pixels_of(split):
    """(images, 32, 32, 3), as they are tested on."""
    return np.stack([load_test_image(split, index, VIEWS) for index in range(len(split))])


def without(flags, *names):
    """Flags, each followed by its value, but for those of these names."""
    pairs = zip(flags[::2], flags[1::2])
    return [word for pair in pairs if pair[0] not in names for word in pair]


@pytest.fixture(scope="module")
def events(runs):
    """Of one process, and of two ranks."""
    return [events_of(runs.logs / name / "tensorboard") for name in ("one", "two")]


def events_of(folder):
    events = EventAccumulator(str(folder), size_guidance=EVERYTHING)
    events.Reload()
    return events


@pytest.fixture(scope="module")
def p(runs):
    """(101, C): probabilities of the test images, by the network that is in memory."""
    pixels = pixels_of(runs.one.folder.test)
    return runs.one.net(mx.nd.array(pixels, dtype="uint8")).softmax().asnumpy()


def test_the_curves_of_each_class_are_counts_that_do_not_depend_on_the_ranks(runs, events, p):
    labels = np.array(runs.one.folder.test.labels)
    assert len(np.unique(np.floor(p * 126))) > 30
    for label, name in enumerate(runs.one.folder.classes):
        tag = f"precision_recall/{name}"
        one, two = (make_ndarray(found.Tensors(tag)[0].tensor_proto) for found in events)
        assert one.shape == (6, 127) and (one == two).all()
        reach = p[:, label].astype(np.float64)[:, None] * 126 >= np.arange(127)
        own = (labels == label)[:, None]
        counts = [reach & own, reach & ~own, ~reach & ~own, ~reach & own]
        assert (one[:4] == [part.sum(axis=0) for part in counts]).all()
        np.testing.assert_allclose(one[4], one[0] / np.maximum(one[0] + one[1], 1), rtol=1e-6)
        np.testing.assert_allclose(one[5], one[0] / own.sum(), rtol=1e-6)


def test_the_worst_mistakes_are_shown_alike_by_any_number_of_ranks(events):
    pictures = [found.Images("mistakes")[0].encoded_image_string for found in events]
    one, two = (np.asarray(Image.open(io.BytesIO(picture))) for picture in pictures)
    assert (one == two).all() and len(np.unique(one)) > 100


def test_the_histograms_are_of_every_parameter_and_of_the_mean_gradient(runs, events):
    net, trainer = runs.one.core, runs.one.trainer
    tags = [set(found.Tags()["histograms"]) for found in events]
    expected = set()
    for name, parameter in parameters_by_path(net).items():
        tag = name.replace(".", "/", 1)
        shown = {f"weights/{tag}": parameter.data().asnumpy()}
        if parameter.grad_req != "null":
            last_step = 53 - 2 * 24  # images
            shown[f"gradients/{tag}"] = parameter.grad().asnumpy() * trainer._scale / last_step
        for tag, values in shown.items():
            expected.add(tag)
            for found in events:
                (event,) = found.Histograms(tag)
                told = event.histogram_value
                assert told.num == sum(told.bucket) == values.size
                ends = values.min(), values.max(), (values.astype(np.float64) ** 2).sum()
                close = pytest.approx(ends, rel=1e-3, abs=1e-5)
                assert (told.min, told.max, told.sum_squares) == close, tag
    assert tags == [expected, expected]
    assert sum(tag.startswith("gradients/") for tag in expected) > 50


def test_the_graph_has_a_node_for_every_parameter_in_the_scopes_of_its_blocks(runs, events):
    for found in events:
        graph = GraphDef.FromString(found.Graph().SerializeToString())
        shapes = {
            node.name: [dim.size for dim in node.attr["_output_shapes"].list.shape[0].dim]
            for node in graph.node
        }
        assert {source.split(":")[0] for node in graph.node for source in node.input} <= set(shapes)
        joined = {name.replace("/", "_"): shape for name, shape in shapes.items()}
        for name, parameter in runs.one.core.collect_params().items():
            assert joined[name] == list(parameter.shape)
        assert shapes["mobilenet0/dense0/fwd"] == [1, 5] and shapes["pixels"] == [1, 32, 32, 3]


def test_resnet_is_nested_by_its_stages():
    with mx.name.NameManager():
        net = zoo.with_normalization(zoo.build("resnet34_v2", 5, 64, 0))
    graph = diagram.draw(net, (1, 64, 64, 3))
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    assert {"resnetv20/stage1/conv0/weight", "resnetv20/stage4/plus2"} <= set(names)
    assert {name.split("/")[0] for name in names} == {"pixels", "normalize0", "resnetv20"}


def test_the_projector_has_a_row_and_a_thumbnail_for_each_test_image(runs, p):
    for run in ("one", "two"):
        place = runs.logs / run / "tensorboard"
        text = (place / projector.CONFIG).read_text()
        (embedding,) = text_format.Parse(text, ProjectorConfig()).embeddings
        features = np.loadtxt(place / embedding.tensor_path, delimiter="\t")
        lines = (place / embedding.metadata_path).read_text().split("\n")[:-1]
        rows = [line.split("\t") for line in lines]
        assert features.shape == (101, 256) and len(rows) == 1 + 101
        assert {len(row) for row in rows} == {len(projector.COLUMNS)}
        named = dict(zip(projector.COLUMNS, zip(*rows[1:])))
        labels, classes = runs.one.folder.test.labels, runs.one.folder.classes
        shown = [name.replace("\t", r"\t").replace("\n", r"\n") for name in classes]
        assert list(named["class"]) == [shown[label] for label in labels]
        assert list(named["taken for"]) == [shown[label] for label in p.argmax(axis=1)]
        # What feeds the head: its weights make logits of it, as the network itself.
        weight, bias = (p.data().asnumpy() for p in runs.one.core.output.params.values())
        logits = features @ weight.T + bias
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        np.testing.assert_allclose(odds / odds.sum(axis=1, keepdims=True), p, atol=1e-3)
        with Image.open(place / embedding.sprite.image_path) as sheet:
            assert list(embedding.sprite.single_image_dim) == [48, 48]
            assert sheet.size == (11 * 48, 11 * 48)  # 11 * 11 are the first square of 101 or more
            pixels = np.asarray(sheet.convert("RGB")).astype(int)
        first = load_test_image(runs.one.folder.test, 12, VIEWS)
        tile = pixels[48:96, 48:96]  # the 12th stands in the second row, behind the 11th
        assert abs(tile.mean(axis=(0, 1)) - first.mean(axis=(0, 1))).max() < 2


@pytest.fixture(scope="module")
def server(runs):
    """The address of a TensorBoard over the folder of both runs."""
    words = [str(BIN / "tensorboard"), "--logdir", str(runs.logs), "--port", "0", "--bind_all"]
    words[-1:] = ["--host", "127.0.0.1"]
    job = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    for line in job.stderr:
        found = re.search(r"http://127.0.0.1:\d+/", line)
        if found:
            break
    else:
        pytest.fail("TensorBoard has ended")
    yield found[0]
    job.terminate()
    job.wait(timeout=20)


def test_the_table_of_runs_has_their_settings_and_results(runs, server):
    session = {"experimentName": "", "allowedStatuses": ["STATUS_SUCCESS"]}
    experiment = asked(f"{server}data/plugin/hparams/experiment", {})
    metrics = [info["name"] for info in experiment["metricInfos"]]
    assert {"tag": "best/test_accuracy", "group": ""} in metrics
    columns = {"colParams": [{"metric": name} for name in metrics], "sliceSize": 9}
    groups = asked(f"{server}data/plugin/hparams/session_groups", {**session, **columns})
    assert {group["name"] for group in groups["sessionGroups"]} == {
        "one/tensorboard",
        "two/tensorboard",
    }
    for group in groups["sessionGroups"]:
        assert group["hparams"]["model"] == "mobilenet0.25" and group["hparams"]["lr"] == 0
        told = {v["name"]["tag"]: v["value"] for v in group["metricValues"]}
        place = runs.logs / group["name"].split("/")[0] / "scores.jsonl"
        row = json.loads(place.read_text())
        assert told["best/test_accuracy"] == pytest.approx(row["test_accuracy"])
        assert told["test/loss"] == pytest.approx(row["test_loss"])


def asked(address, body):
    request = Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=20) as answer:
        return json.load(answer)


PAGES = {
    "scalars": "best/test_accuracy",
    "images": "mistakes 2",
    "pr_curves": "precision_recall/class_a",
    "hparams": "two/tensorboard",
    "graphs": "mobilenet0",
    "histograms": "gradients",
    "projector": "Points: 101 Dimension: 256",
}


# Pixels of a colour, fewer than there are when a page's charts are drawn; other pages have none.
DRAWN = {"scalars": 100, "images": 10_000, "pr_curves": 500, "histograms": 5000, "projector": 1000}


@needs_chromium
@pytest.mark.parametrize("page", PAGES)
def test_chromium_shows_each_page_of_tensorboards_without_a_complaint(browser, server, page):
    browser.open(f"{server}#{page}")
    browser.wait_for(PAGES[page])
    browser.wait_until_still()
    picture = browser.screenshot(f"tensorboard-{page}")
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"))[120:, 450:].astype(int)  # beside what is chosen
    assert ((pixels.max(axis=2) - pixels.min(axis=2)) > 60).sum() >= DRAWN.get(page, 0)
    assert browser.complaints() == []
