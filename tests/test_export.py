"""export: what is written is the network, or is not written."""

from __future__ import annotations

import importlib.util
import json
import textwrap
from pathlib import Path

import mxnet as mx
import numpy as np
import onnx
import pytest
from PIL import Image

from dist_ft.config import Config
from dist_ft.data.decoding import decode
from dist_ft.data.transforms import center_crop
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.inference import exporter, trained_model
from dist_ft.inference.exporter import Shown
from dist_ft.inference.model_evaluation import labelled_split
from dist_ft.inference.predictor import predict
from dist_ft.models import zoo
from dist_ft.train import fit
from tests.conftest import FOOD5, REPO, run_job

SIDE = 32


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    recipe = {"epochs": 4, "batch_size": 8, "momentum": 0.9, "head_lr_mult": 1.0, "lr": 0.02}
    net = {"model": "resnet18_v2", "weights": "none", "image_size": SIDE}
    world = World(device="cpu", stall_timeout_s=600)
    fit(Config(data=str(tiny), out=str(out), num_workers=2, **net, **recipe), world)
    world.close()
    return out


@pytest.fixture(scope="module")
def found(run):
    return trained_model.load(run)


@pytest.fixture(scope="module")
def pixels():
    return next(exporter.noise(SIDE)).x[:9]


@pytest.fixture(scope="module")
def expected(found, pixels):
    return exporter.classifier(exporter.on_pixels(found.core(mx.cpu())))(pixels)


def load(folder):
    files = str(folder / "model-symbol.json"), ["data"], str(folder / "model-0000.params")
    return mx.gluon.SymbolBlock.imports(*files)


def test_gluon_files_are_the_network_from_pixels_on(run, tiny, tmp_path, pixels, expected):
    out = tmp_path / "net"
    words = ["-m", "dist_ft.export", str(run), "--to", "gluon", "--out", str(out)]
    ended = run_job([*words, "--data", str(tiny)], 60)
    assert ended.status == 0, ended.output
    assert "101 of 101 labels equal" in ended.output and "on the test images" in ended.output
    assert "warning" not in ended.output.lower()
    given = load(out)(mx.nd.array(pixels, dtype="uint8")).asnumpy()
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(given.sum(axis=1), 1, rtol=1e-5)
    told = json.loads((out / "model.json").read_text())
    assert told["classes"] == [f"class_{letter}" for letter in "abcde"]
    assert (told["image_size"], told["resize"], told["keep_ratio"]) == (32, 37, False)


def test_an_export_that_is_there_is_not_written_over(found, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        exporter.export(found, "gluon", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_onnx_takes_pixels_and_tells_its_classes(found, tmp_path):
    path = tmp_path / "net.onnx"
    exporter.export(found, "onnx", path)
    made = onnx.load(str(path))
    (taken,), (given,) = made.graph.input, made.graph.output
    shapes = [
        [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]
        for value in (taken, given)
    ]
    assert (taken.name, given.name) == ("pixels", "probabilities")
    assert taken.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert shapes == [["n", 32, 32, 3], ["n", 5]]
    told = {entry.key: entry.value for entry in made.metadata_props}
    assert json.loads(told["classes"]) == list(found.classes)
    assert "37 x 37" in told["preprocessing"]
    used = {name for node in made.graph.node for name in node.input}
    assert {weight.name for weight in made.graph.initializer} <= used


def test_onnx_is_the_network_for_any_number_of_images(found, tiny, tmp_path, pixels, expected):
    runtime = pytest.importorskip("onnxruntime")
    path = tmp_path / "net.onnx"
    made = exporter.export(found, "onnx", path, str(tiny))
    assert (made.num_images, made.num_equal, made.num_clear) == (101, 101, 0)
    assert made.largest < 1e-4
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for num in (1, 4, 9):
        (given,) = session.run(None, {"pixels": pixels[:num]})
        np.testing.assert_allclose(given, expected[:num], rtol=0, atol=1e-5)


def test_the_readmes_lines_say_what_predict_says(found, tiny, tmp_path, monkeypatch, capsys):
    """Of a photograph on its side, much larger than what the network sees."""
    pytest.importorskip("onnxruntime")
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    begin = readme.index("    import cv2, json, onnxruntime")
    lines = textwrap.dedent(readme[begin : readme.index("\n\n##", begin)])
    for told, here in (
        ("(256, 256)", "(37, 37)"),
        ("[16:240, 16:240, ::-1]", "[2:34, 2:34, ::-1]"),
    ):
        assert lines.count(told) == 1
        lines = lines.replace(told, here)  # this network's sizes
    exporter.export(found, "onnx", tmp_path / "food.onnx", str(tiny))
    photograph = np.random.RandomState(0).randint(0, 256, (300, 400, 3)).astype(np.uint8)
    tags = Image.Exif()
    tags[0x112] = 6
    Image.fromarray(photograph).save(tmp_path / "dish.jpg", exif=tags)
    monkeypatch.chdir(tmp_path)
    exec(lines, {})
    world = World(device="cpu", stall_timeout_s=600)
    ((row,),) = predict(found.network(world), found, ["dish.jpg"], world)
    world.close()
    label, probability = capsys.readouterr().out.splitlines()[-1].split()
    assert label == row.top[0][0]
    assert float(probability) == pytest.approx(row.top[0][1], abs=1e-4)


def test_int8_files_hold_the_quantized_network(found, tiny, tmp_path, pixels, expected):
    views = list(exporter.views_of(labelled_split(str(tiny), "train", found.classes), found.spec))
    core = exporter.quantized(found.core(mx.cpu()), views)
    told = exporter.write_gluon(core, found, tmp_path)(pixels)
    assert "quantized_sg_mkldnn_conv" in (tmp_path / "model-symbol.json").read_text()
    given = load(tmp_path)(mx.nd.array(pixels, dtype="uint8")).asnumpy()
    np.testing.assert_array_equal(given, told)
    np.testing.assert_allclose(given.sum(axis=1), 1, rtol=1e-5)
    assert 1e-4 < np.abs(given - expected).mean() < 0.2


def test_int8_that_changes_labels_is_not_written_unless_it_may(found, tiny, tmp_path):
    """A network that has hardly learned is sure of nothing: every fifth label is another."""
    with pytest.raises(
        UserError, match="of 101 labels equal.* nothing is written; --equal-share 0.97"
    ):
        exporter.export(found, "int8", tmp_path / "net", str(tiny))
    assert list(tmp_path.iterdir()) == []
    made = exporter.export(found, "int8", tmp_path / "net", str(tiny), equal_share=0.5)
    assert 0.5 * 101 <= made.num_equal < 0.97 * 101
    assert (tmp_path / "net" / "model-0000.params").is_file()


@pytest.mark.parametrize("name", ["resnet18_v2", "mobilenetv2_0.25", "vgg11", "squeezenet1.1"])
def test_int8_leaves_the_first_convolution_and_the_head_in_float(name):
    net = zoo.build(name, 5, 224, seed=0)
    nodes = json.loads(net(mx.sym.var("data")).tojson())["nodes"]
    kinds = {node["name"]: node["op"] for node in nodes}
    first, *head = exporter._left_in_float(nodes)
    convolutions = [own for own, kind in kinds.items() if kind == "Convolution"]
    assert first == convolutions[0]
    assert head[-1] == nodes[-1]["name"]
    if name == "vgg11":  # which has no mean over an image
        assert [kinds[own] for own in head] == ["FullyConnected"]
    else:
        assert kinds[head[0]] == "Pooling" and len(head) <= 4


@pytest.mark.parametrize("to", ["gluon", "int8"])
def test_an_export_that_is_not_the_network_is_not_written(found, tiny, tmp_path, to, monkeypatch):
    """The files are those of a network with other weights, as a broken exporter's would be."""
    other = found.core(mx.cpu())
    other.output.weight.set_data(-other.output.weight.data())
    original = exporter.write_gluon
    monkeypatch.setattr(exporter, "write_gluon", lambda core, *rest: original(other, *rest))
    with pytest.raises(UserError, match="not as the network: .* labels equal"):
        exporter.export(found, to, tmp_path / "net", str(tiny))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shift, good", [(0, True), (1e-4, True), (0.01, False), (np.nan, False)])
def test_a_difference_counts_from_the_tolerance_on(pixels, expected, shift, good):
    made = exporter.compare(lambda x: expected, lambda x: expected + shift, [Shown(pixels, None)])
    assert made.is_good("gluon") == good
    assert made.num_images == 9


def test_an_export_is_told_with_its_accuracy_and_the_networks(pixels):
    ours = np.float32([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    theirs = np.float32([[0.6, 0.4], [0.7, 0.3], [0.7, 0.3]])
    shown = [Shown(pixels[:3], np.array([0, 1, 1]))]
    made = exporter.compare(lambda x: ours, lambda x: theirs, shown)
    assert made == (3, 2, 1, pytest.approx(0.5), 3, 2, 1)
    assert str(made).endswith("accuracy 0.3333 (the network's 0.6667)")
    assert "accuracy" not in str(
        exporter.compare(lambda x: ours, lambda x: theirs, [(pixels, None)])
    )


def test_labels_may_differ_only_where_the_network_is_not_sure(pixels):
    sure, unsure = np.float32([[0.6, 0.4]]), np.float32([[0.5002, 0.4998]])
    for ours, clear in ((sure, 1), (unsure, 0)):
        made = exporter.compare(
            lambda x, p=ours: p, lambda x, p=ours: p[:, ::-1], [Shown(pixels[:1], None)]
        )
        assert (made.num_equal, made.num_clear) == (0, clear)
        assert made.is_good("gluon") == (clear == 0)


def test_int8_wants_images_and_no_one_wants_two_processes(run, tmp_path):
    words = ["-m", "dist_ft.export", str(run), "--out", str(tmp_path / "net"), "--to"]
    ended = run_job([*words, "int8"], 60)
    assert (ended.status, "--data DIR" in ended.output) == (2, True)
    ended = run_job([*words, "gluon"], 60, num_ranks=2)
    assert ended.status != 0
    assert "leave horovodrun out" in ended.output
    assert list(tmp_path.iterdir()) == []


def outcome(words):
    ended = run_job(words, 100)
    assert ended.status == 0, ended.output
    return ended.output


def test_predict_evaluate_and_the_exports_agree_image_by_image(fine_tuned, tmp_path):
    """On real photographs; gluon's files are run here as they are."""
    run, said = fine_tuned, tmp_path / "said.json"
    row = json.loads((run / "scores.jsonl").read_text().splitlines()[-1])
    outcome(["-m", "dist_ft.evaluate", str(run), str(FOOD5), "--json", str(said)])
    report = json.loads(said.read_text())
    assert (report["images"], report["correct"]) == (row["test_images"], row["test_correct"])
    assert report["confusion"] == row["confusion"]
    rows = tmp_path / "rows.jsonl"
    outcome(["-m", "dist_ft.predict", str(run), str(FOOD5 / "test"), "--output", str(rows)])
    labels = [json.loads(line) for line in rows.read_text().splitlines()]
    confusion = np.zeros((5, 5), int)
    classes = list(report["classes"])
    for one in labels:
        label = Path(one["path"]).parent.name
        confusion[classes.index(label), classes.index(one["label"])] += 1
    assert confusion.tolist() == row["confusion"]
    found = trained_model.load(run)
    made = exporter.export(found, "gluon", tmp_path / "net", str(FOOD5))
    assert made.num_images == made.num_equal == 750
    files = [str(tmp_path / "net" / f"model-{part}") for part in ("symbol.json", "0000.params")]
    net = mx.gluon.SymbolBlock.imports(files[0], ["data"], files[1])
    told = json.loads((tmp_path / "net" / "model.json").read_text())
    for one in labels[::50]:
        pixels = center_crop(
            decode(Path(one["path"]).read_bytes()), 64, told["resize"], told["keep_ratio"]
        )
        (p,) = net(mx.nd.array(pixels[None], dtype="uint8")).asnumpy()
        assert told["classes"][p.argmax()] == one["label"]
        assert p.max() == pytest.approx(one["probability"], abs=1e-4)
    made = exporter.export(found, "onnx", tmp_path / "net.onnx", str(FOOD5))
    if importlib.util.find_spec("onnxruntime"):
        assert made.num_images == made.num_equal == 750
    made = exporter.export(found, "int8", tmp_path / "int8", str(FOOD5))
    assert made.num_equal >= 0.97 * 750
    assert abs(made.correct - row["test_correct"]) <= made.num_images - made.num_equal
