"""dist_ft.export writes the trained network, or nothing."""

from __future__ import annotations

import json
import sys
import textwrap

import mxnet as mx
import numpy as np
import onnx
import pytest
from PIL import Image

from dist_ft import export as command
from dist_ft.data.transforms import InputSpec
from dist_ft.errors import UserError
from dist_ft.inference import exporter, int8, trained_model
from dist_ft.inference.exporter import TOLERANCE, Comparison, noise
from dist_ft.inference.model_evaluation import labeled_split
from dist_ft.inference.predictor import predict
from dist_ft.models import zoo
from tests.conftest import REPO, run_job
from tests.images import make_folder
from tests.rounding import EPSILON

SQUARE = InputSpec(side=32, resize=37, keep_ratio=False)
FLOAT32_TOLERANCE = 28 * 256 * EPSILON  # of sums over 256 channels in each of 28 layers


@pytest.fixture(scope="module")
def model(trained_run):
    """A mobilenet0.25, to which images are shown as squares."""
    return trained_model.load(trained_run)._replace(spec=SQUARE)


@pytest.fixture(scope="module")
def pixels():
    return noise(SQUARE.side)[0].x[:9]


@pytest.fixture(scope="module")
def expected(model, pixels):
    net = exporter.probabilities_from_pixels(model.core(mx.cpu()))
    return net(mx.nd.array(pixels, dtype="uint8")).asnumpy()


def run_gluon(folder, pixels):
    symbol, parameters = folder / "model-symbol.json", folder / "model-0000.params"
    net = mx.gluon.SymbolBlock.imports(str(symbol), ["data"], str(parameters))
    return net(mx.nd.array(pixels, dtype="uint8")).asnumpy()


def test_gluon_files_contain_the_network_from_pixels_to_probabilities(
    model, tiny, world, tmp_path, pixels, expected
):
    out = tmp_path / "net"
    comparison = exporter.export(model, "gluon", out, world, str(tiny))
    assert (comparison.num_images, comparison.num_equal) == (101, 101)
    actual = run_gluon(out, pixels)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=FLOAT32_TOLERANCE)
    description = json.loads((out / "model.json").read_text())
    assert description["classes"] == [f"class_{letter}" for letter in "abcde"]
    spec = description["image_size"], description["resize"], description["keep_ratio"]
    assert spec == SQUARE


def test_the_command_prints_the_comparison(trained_run, tiny, tmp_path, call):
    out = tmp_path / "net"
    _, output, errors = call(command, trained_run, "--to", "gluon", "--out", out, "--data", tiny)
    assert f"{out}: 101 of 101 labels equal" in output
    assert "on the test images" in output
    assert "warning" not in errors.lower()


def test_an_existing_folder_is_not_overwritten(model, world, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        exporter.export(model, "gluon", tmp_path, world)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.fixture(scope="module")
def onnx_export(model, tiny, world, tmp_path_factory):
    """(file, comparison with the network)"""
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    return path, exporter.export(model, "onnx", path, world, str(tiny))


def test_onnx_takes_pixels_and_contains_its_classes(model, onnx_export):
    exported = onnx.load(str(onnx_export[0]))
    (pixels,), (probabilities,) = exported.graph.input, exported.graph.output
    shapes = [
        [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]
        for value in (pixels, probabilities)
    ]
    assert (pixels.name, probabilities.name) == ("pixels", "probabilities")
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert shapes == [["n", 32, 32, 3], ["n", 5]]
    metadata = {entry.key: entry.value for entry in exported.metadata_props}
    assert json.loads(metadata["classes"]) == list(model.classes)
    assert "37 x 37" in metadata["preprocessing"]
    used = {name for node in exported.graph.node for name in node.input}
    assert {weight.name for weight in exported.graph.initializer} <= used


def test_onnx_is_the_network_for_any_number_of_images(onnx_export, pixels, expected):
    runtime = pytest.importorskip("onnxruntime")
    path, comparison = onnx_export
    assert comparison.num_images == comparison.num_equal == 101
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for num in (1, 4, 9):
        (actual,) = session.run(None, {"pixels": pixels[:num]})
        np.testing.assert_allclose(actual, expected[:num], rtol=0, atol=FLOAT32_TOLERANCE)


def test_onnx_without_its_packages_is_an_error_or_not_compared(model, world, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert exporter.export(model, "onnx", tmp_path / "net.onnx", world) is None
    assert (tmp_path / "net.onnx").is_file()
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="--to onnx: needs onnx .*pip install"):
        exporter.export(model, "onnx", tmp_path / "other.onnx", world)
    assert not (tmp_path / "other.onnx").exists()


@pytest.mark.parametrize("shape", [(300, 400), (30, 400), (60, 74)])
def test_the_documented_onnx_program_prints_what_predict_says(
    model, onnx_export, world, tmp_path, monkeypatch, capsys, shape
):
    """Of a photograph on its side: a large one, a panorama, and a small one."""
    pytest.importorskip("onnxruntime")
    page = (REPO / "docs" / "deployment.md").read_text(encoding="utf-8")
    begin = page.index("    import cv2, json, onnxruntime")
    program = textwrap.dedent(page[begin : page.index("\n\nThe first", begin)])
    program = program.replace("16:240", "2:34").replace("256", "37")
    (tmp_path / "food.onnx").symlink_to(onnx_export[0])
    photograph = np.random.RandomState(0).randint(0, 256, (*shape, 3)).astype(np.uint8)
    tags = Image.Exif()
    tags[0x112] = 6
    Image.fromarray(photograph).save(tmp_path / "dish.jpg", exif=tags)
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    ((row,),) = predict(model.network(world), model, ["dish.jpg"], world)
    label, probability = capsys.readouterr().out.splitlines()[-1].split()
    assert label == row.top[0][0]
    assert float(probability) == pytest.approx(row.top[0][1], abs=FLOAT32_TOLERANCE)


def test_int8_files_contain_the_quantized_network(model, tiny, tmp_path, pixels):
    train = labeled_split(str(tiny), "train", model.classes)
    calibration = int8.calibration_pixels(train, model.spec, num_workers=2)
    core = int8.quantize(model.core(mx.cpu()), calibration)
    written = exporter.write_gluon(core, model, tmp_path)
    assert "quantized_sg_mkldnn_conv" in (tmp_path / "model-symbol.json").read_text()
    actual = run_gluon(tmp_path, pixels)
    np.testing.assert_array_equal(actual, written(mx.nd.array(pixels, dtype="uint8")).asnumpy())


@pytest.mark.parametrize("name, head_op", [("resnet18_v2", "Pooling"), ("vgg11", "FullyConnected")])
def test_int8_leaves_the_first_convolution_and_the_head_in_float32(name, head_op):
    net = zoo.build(name, 5, 224, seed=0)
    nodes = json.loads(net(mx.sym.var("data")).tojson())["nodes"]
    operations = {node["name"]: node["op"] for node in nodes}
    first, *head = int8.sensitive_layers(nodes)
    assert first == next(own for own, op in operations.items() if op == "Convolution")
    assert operations[head[0]] == head_op and head[-1] == nodes[-1]["name"]


@pytest.mark.parametrize("to", ["gluon", "int8"])
def test_an_export_that_differs_from_the_network_is_not_written(
    model, tiny, world, tmp_path, to, monkeypatch
):
    """The files contain another network, as those of a broken exporter would."""
    other = model.core(mx.cpu())
    for parameter in zoo.head(other).collect_params().values():
        parameter.set_data(-parameter.data())  # the least likely class becomes the likeliest
    original = exporter.write_gluon
    monkeypatch.setattr(exporter, "write_gluon", lambda core, *rest: original(other, *rest))
    with pytest.raises(UserError, match="differs from the network: .* labels equal"):
        exporter.export(model, to, tmp_path / "net", world, str(tiny))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "difference, is_same, keeps_labels",
    [(0, True, True), (TOLERANCE / 10, True, True), (0.1, False, True), (np.nan, False, False)],
)
def test_a_difference_above_the_tolerance_counts(expected, difference, is_same, keeps_labels):
    comparison = Comparison()
    comparison.add(np.full(9, -1), expected, expected + np.float32(difference))
    assert comparison.is_same_network() == is_same
    assert comparison.keeps_labels(0.5) == keeps_labels
    assert comparison.num_images == 9 and "accuracy" not in str(comparison)


def test_a_comparison_has_the_accuracies_of_labeled_images():
    network = np.float32([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    exported = np.float32([[0.6, 0.4], [0.7, 0.3], [0.7, 0.3]])
    comparison = Comparison()
    comparison.add(np.array([0, 1, 1]), network, exported)
    assert str(comparison).endswith("accuracy 0.3333 (the network's 0.6667)")
    assert comparison.num_equal == 2
    assert comparison.keeps_labels(2 / 3) and not comparison.keeps_labels(0.97)


@pytest.mark.parametrize(
    "to, split, kind", [("int8", "train", "training"), ("gluon", "test", "test")]
)
def test_unreadable_images_are_left_out(model, world, tmp_path, to, split, kind):
    """And if there are no others, nothing is written."""
    data = make_folder(tmp_path / "data", train=(2,) * 5, test=(1,) * 5)
    first, *others = sorted((data / split).glob("*/*"))
    for path in others:
        path.write_bytes(b"")
    exporter.export(model, to, tmp_path / "net", world, str(data), equal_share=0.01)
    first.write_bytes(b"")
    with pytest.raises(UserError, match=f"no {kind} image can be read"):
        exporter.export(model, to, tmp_path / "other", world, str(data))
    assert not (tmp_path / "other").exists()


def test_int8_needs_images(call):
    status, _, errors = call(command, "run", "--to", "int8", "--out", "net")
    assert status == 2 and "--data DIR" in errors


@pytest.mark.jobs
def test_an_export_needs_a_single_process(trained_run, tmp_path):
    arguments = [str(trained_run), "--to", "gluon", "--out", str(tmp_path / "net")]
    ended = run_job(["-m", "dist_ft.export", *arguments], 60, num_ranks=2)
    assert ended.status != 0
    assert "without horovodrun" in ended.output
    assert list(tmp_path.iterdir()) == []


def test_a_label_that_changes_in_spite_of_a_margin_is_another_network():
    network = np.array([[0.5006, 0.4994]])
    exported = np.array([[0.4999, 0.5001]])  # each probability is within the tolerance
    comparison = exporter.Comparison()
    comparison.add(np.array([-1]), network, exported)
    assert comparison.max_difference <= exporter.TOLERANCE
    assert not comparison.is_same_network()
