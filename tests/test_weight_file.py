"""models.weight_file: .params and ONNX files, and what is neither."""

import sys

import pytest

from dist_ft.errors import UserError
from dist_ft.models import weight_file
from tests.networks import WEIGHT_FILES


@pytest.mark.parametrize("name", WEIGHT_FILES)
def test_the_format_does_not_depend_on_the_file_name(weight_files, tmp_path, name):
    path = tmp_path / "weights"
    path.write_bytes((weight_files / name).read_bytes())
    assert len(weight_file.read(path)) == 7


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
    with pytest.raises(UserError, match=r"net\.onnx: .*pip install 'dist-ft\[onnx\]'") as e:
        weight_file.read(weight_files / "net.onnx")
    assert "\n" not in str(e.value)


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path):
    with pytest.raises(UserError, match=rf"--weights {tmp_path}: cannot be read \(Is a directory"):
        weight_file.read(tmp_path)
