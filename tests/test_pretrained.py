"""models.pretrained: which file a run starts from, downloaded from a real server on loopback."""

import hashlib
import io
import sys
import zipfile

import pytest
from mxnet.gluon.model_zoo import model_store

from dist_ft.errors import Unavailable, UserError
from dist_ft.models import pretrained, weight_file
from tests.fileserver import sha256


def test_weights_name_nothing_or_a_file(weight_files, tmp_path):
    file = weight_files / "net.onnx"
    assert pretrained.locate("none", "resnet34_v2") is None
    assert pretrained.locate(str(file), "resnet34_v2") == file
    with pytest.raises(UserError, match=r"absent\.params: no such file"):
        pretrained.locate(str(tmp_path / "absent.params"), "resnet34_v2")


def test_a_file_that_cannot_be_read_is_named_with_the_reason():
    with pytest.raises(UserError, match=r"cannot be read \(File name too long\)"):
        pretrained.find_local("x" * 1000, "resnet34_v2")


def test_a_model_without_published_weights_is_rejected():
    pytest.importorskip("gluoncv")
    assert pretrained.published_files("resnet50_v1d")[0].name == "resnet50_v1d-117a384e.params"
    with pytest.raises(UserError, match="no published weights for resnet7_v7"):
        pretrained.locate("auto", "resnet7_v7")


def test_a_model_outside_gluon_needs_gluoncv(monkeypatch):
    monkeypatch.setitem(sys.modules, "gluoncv", None)  # its import then fails
    monkeypatch.setitem(sys.modules, "gluoncv.model_zoo", None)
    with pytest.raises(UserError, match=r"pip install 'dist-ft\[gluoncv\]'"):
        pretrained.locate("auto", "resnet50_v1d")


def test_the_published_files_have_the_names_that_mxnet_gives_them(monkeypatch):
    monkeypatch.delenv("MXNET_GLUON_REPO", raising=False)
    monkeypatch.delenv("DIST_FT_ONNX_REPO", raising=False)
    params, onnx = pretrained.published_files("resnet34_v2")
    assert params.name == "resnet34_v2-9d6b80bb.params"
    assert params.url.endswith("amazonaws.com/gluon/models/resnet34_v2-9d6b80bb.zip")
    assert onnx.name == "resnet34-v2-7.onnx"
    assert onnx.url.endswith("/validated/vision/classification/resnet/model/resnet34-v2-7.onnx")


@pytest.fixture
def store(server, tmp_path, monkeypatch, weight_files):
    """A server with one model, 'tiny_v2', as a .params file in a zip archive and as ONNX."""
    params = (weight_files / "saved.params").read_bytes()
    onnx = (weight_files / "net.onnx").read_bytes()
    sha1 = hashlib.sha1(params).hexdigest()
    monkeypatch.setitem(model_store._model_sha1, "tiny_v2", sha1)
    monkeypatch.setitem(pretrained.ONNX_SHA256, "tiny-v2-7", sha256(onnx))
    monkeypatch.setenv("MXNET_GLUON_REPO", server.url)
    monkeypatch.setenv("DIST_FT_ONNX_REPO", f"{server.url}/onnx/")
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "home"))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(f"tiny_v2-{sha1[:8]}.params", params)
    server.zip_path = f"/gluon/models/tiny_v2-{sha1[:8]}.zip"
    server.contents = {
        server.zip_path: archive.getvalue(),
        f"/onnx/{pretrained.ONNX_FOLDER}tiny-v2-7.onnx": onnx,
    }
    server.params = tmp_path / "home" / "models" / f"tiny_v2-{sha1[:8]}.params"
    server.onnx = server.params.with_name("tiny-v2-7.onnx")
    return server


def test_auto_downloads_the_file_of_mxnet_once(store):
    assert pretrained.find_local("auto", "tiny_v2") is None
    assert pretrained.locate("auto", "tiny_v2") == store.params
    assert pretrained.locate("auto", "Tiny_v2") == store.params
    assert store.requests == [store.zip_path]
    assert len(weight_file.read(store.params)) == 7


@pytest.mark.parametrize("content", [None, b"<html>moved</html>"])
def test_auto_downloads_the_onnx_file_when_the_server_of_mxnet_fails(store, content):
    if content is None:
        del store.contents[store.zip_path]
    else:
        store.contents[store.zip_path] = content
    assert pretrained.locate("auto", "tiny_v2") == store.onnx
    assert len(weight_file.read(store.onnx)) == 7


def test_auto_replaces_a_damaged_file(store):
    store.params.parent.mkdir(parents=True)
    store.params.write_bytes(b"damaged")
    assert len(weight_file.read(pretrained.locate("auto", "tiny_v2"))) == 7


def test_when_no_server_delivers_the_error_says_what_to_do(store):
    store.contents = {}
    with pytest.raises(Unavailable) as e:
        pretrained.locate("auto", "tiny_v2")
    message = str(e.value)
    assert e.value.exit_code == 69
    for file in pretrained.published_files("tiny_v2"):
        assert all(part in message for part in file)
    assert message.count("404") == 2
    assert f"Put one of these files into {store.params.parent}, or pass it" in message
    assert "--weights FILE" in message and "--weights none" in message


def test_a_folder_that_cannot_be_written_is_not_reported_as_unavailable(store, tmp_path):
    (tmp_path / "home").write_text("a file instead of a folder")
    with pytest.raises(UserError, match="MXNET_HOME") as e:
        pretrained.locate("auto", "tiny_v2")
    assert not isinstance(e.value, Unavailable)


def test_the_command_prints_the_file(weight_files, capsys):
    pretrained.main(str(weight_files / "net.onnx"), "resnet34_v2")
    assert capsys.readouterr().out == f"{weight_files / 'net.onnx'}\n"


def test_the_command_exits_with_69_when_no_server_delivers(store, capsys):
    store.contents = {}
    with pytest.raises(SystemExit) as e:
        pretrained.main("auto", "tiny_v2")
    assert e.value.code == 69
    output = capsys.readouterr()
    assert output.out == ""
    assert "dist_ft: no pretrained weights of tiny_v2" in output.err
