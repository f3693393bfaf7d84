"""models.weight_file: .params and ONNX files, and what is neither."""

import os
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

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


@contextmanager
def unprivileged():
    """Root may read every file."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_an_unreadable_file_is_named_with_the_reason(weight_files, tmp_path):
    forbidden = tmp_path / "forbidden.params"
    forbidden.write_bytes((weight_files / "saved.params").read_bytes())
    forbidden.chmod(0)
    failing = Path("/proc/self/mem")  # nothing is mapped at address 0, so reading it fails
    reasons = {forbidden: "Permission denied", tmp_path: "Is a directory", failing: "Input/output"}
    for path, reason in reasons.items():
        user = unprivileged() if path is forbidden else nullcontext()
        with user, pytest.raises(UserError, match=rf"--weights {path}: cannot be read \({reason}"):
            weight_file.read(path)
