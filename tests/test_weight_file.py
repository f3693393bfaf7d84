"""models.weight_file: every format gives the same backbone, and nothing is guessed."""

import sys

import mxnet as mx
import numpy as np
import pytest

from dist_ft.errors import UserError
from dist_ft.models import parameters, weight_file, zoo
from tests.networks import WEIGHT_FILES, small_network


def values(net):
    return {path: array.asnumpy() for path, array in parameters.arrays(net).items()}


@pytest.mark.parametrize("name", WEIGHT_FILES)
def test_a_file_of_any_format_and_name_fills_the_backbone_only(weight_files, tmp_path, name):
    path, net = tmp_path / "weights", small_network(num_classes=5)
    path.write_bytes((weight_files / name).read_bytes())
    before, saved = values(net), mx.nd.load(str(weight_files / "saved.params"))
    weight_file.load_backbone(path, net)
    for key, value in values(net).items():
        expected = saved[key].asnumpy() if key.startswith("features.") else before[key]
        np.testing.assert_array_equal(value, expected, err_msg=key)


def test_a_head_of_two_paths_is_not_part_of_the_backbone(tmp_path):
    pytest.importorskip("gluoncv")  # its GoogLeNet has its head as `output` and in `head`
    pretrained, net = (zoo.build("googlenet", n, 224, seed=n) for n in (7, 5))
    pretrained.save_parameters(str(tmp_path / "file"))
    assert {"head.2.bias", "output.bias"} < weight_file.read(tmp_path / "file").keys()
    before, saved = values(net), mx.nd.load(str(tmp_path / "file"))
    weight_file.load_backbone(tmp_path / "file", net)
    for path, value in values(net).items():
        expected = before[path] if path.startswith("output.") else saved[path].asnumpy()
        np.testing.assert_array_equal(value, expected, err_msg=path)
    parameters.set_lr_multipliers(net, head_lr_mult=10, backbone_lr_mult=0)
    assert [group[:2] for group in parameters.groups(net)] == [("head", 10), ("features", 0)]


def test_all_mismatches_are_named_and_nothing_is_changed(weight_files, tmp_path):
    arrays = weight_file.read(weight_files / "net.onnx")
    del arrays[next(name for name in arrays if name.endswith("beta"))]
    arrays[next(name for name in arrays if name.endswith("weight"))] = mx.nd.zeros((8, 3, 5, 5))
    mx.nd.save(str(tmp_path / "other"), {**arrays, "other_weight": mx.nd.zeros(1)})
    net = small_network()
    before = values(net)
    with pytest.raises(UserError) as e:
        weight_file.load_backbone(tmp_path / "other", net)
    assert str(e.value).splitlines()[1:] == [
        "  1 missing in the file: features.1.beta",
        "  1 unknown to the network: other_weight",
        "  1 with another shape: features.0.weight (file (8, 3, 5, 5), network (8, 3, 3, 3))",
        "  choose the --model of the file, or --weights for this model",
    ]
    for path, value in values(net).items():
        np.testing.assert_array_equal(value, before[path])


def test_the_model_of_a_resnet_file_is_suggested(tmp_path):
    arrays = {f"features.{i}.weight": mx.nd.zeros((1, 1, 1, 1)) for i in range(36)}
    mx.nd.save(str(tmp_path / "resnet"), {**arrays, "features.0.gamma": mx.nd.zeros(3)})
    with pytest.raises(UserError, match=r"features\.\S+ and 28 more(.|\n)*--model resnet34_v2"):
        weight_file.load_backbone(tmp_path / "resnet", small_network())


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", r"no named arrays \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:3d38\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>Not found</html>", "web page"),
        (b"PK\x03\x04....", "zip archive"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"no weights at all", "not a complete .params or ONNX file"),
    ],
)
def test_a_file_of_another_format_is_rejected(tmp_path, content, message):
    path = tmp_path / "resnet34_v2.params"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"--weights {path}: .*{message}"):
        weight_file.read(path)


@pytest.mark.parametrize("name", ["saved.params", "net.onnx"])
def test_an_incomplete_file_is_rejected(weight_files, tmp_path, name):
    whole = (weight_files / name).read_bytes()
    path = tmp_path / name
    for size in [*range(40), *range(40, len(whole), len(whole) // 20), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=name):
            weight_file.read(path)


def test_an_onnx_file_needs_the_package_onnx(weight_files, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)  # its import then fails
    assert weight_file.read(weight_files / "saved.params")
    with pytest.raises(UserError, match=r"net\.onnx: .*pip install 'dist-ft\[onnx\]'"):
        weight_file.read(weight_files / "net.onnx")


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path):
    with pytest.raises(UserError, match=rf"--weights {tmp_path}: cannot be read \(Is a directory"):
        weight_file.read(tmp_path)
