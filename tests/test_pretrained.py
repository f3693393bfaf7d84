"""models.pretrained: which file a run starts from, downloaded from a real server on loopback."""

import hashlib
import io
import zipfile
from pathlib import Path

import pytest
from mxnet.gluon.model_zoo import model_store

from dist_ft.errors import Unavailable, UserError
from dist_ft.models import pretrained


def test_weights_name_nothing_or_a_file():
    assert pretrained.locate("none", "resnet34_v2") is None
    assert pretrained.locate(__file__, "resnet34_v2") == Path(__file__)


@pytest.mark.parametrize(
    "weights, model, message",
    [
        ("absent.params", "resnet34_v2", r"absent\.params: no such file"),
        ("x" * 1000, "resnet34_v2", r"cannot be read \(File name too long\)"),
        ("auto", "resnet7_v7", "no published weights for resnet7_v7"),
    ],
)
def test_weights_that_do_not_exist_are_rejected(weights, model, message):
    if weights == "auto":
        pytest.importorskip("gluoncv")
    with pytest.raises(UserError, match=message):
        pretrained.locate(weights, model)


def test_published_files_have_the_names_that_mxnet_and_gluoncv_give_them(monkeypatch):
    pytest.importorskip("gluoncv")
    monkeypatch.delenv("MXNET_GLUON_REPO", raising=False)
    monkeypatch.delenv("DIST_FT_ONNX_REPO", raising=False)
    assert pretrained.published_files("resnet50_v1d")[0].name == "resnet50_v1d-117a384e.params"
    params, onnx = pretrained.published_files("ResNet34_v2")
    assert params.name == "resnet34_v2-9d6b80bb.params"
    assert params.url.endswith("amazonaws.com/gluon/models/resnet34_v2-9d6b80bb.zip")
    assert onnx.name == "resnet34-v2-7.onnx"
    assert onnx.url.endswith("/validated/vision/classification/resnet/model/resnet34-v2-7.onnx")


@pytest.fixture
def store(server, tmp_path, monkeypatch):
    """A server with one model, 'tiny_v2', as a .params file in a zip archive and as ONNX."""
    sha1 = hashlib.sha1(b"params").hexdigest()
    sha256 = hashlib.sha256(b"onnx").hexdigest()
    monkeypatch.setitem(model_store._model_sha1, "tiny_v2", sha1)
    monkeypatch.setitem(pretrained.ONNX_SHA256, "tiny-v2-7", sha256)
    monkeypatch.setenv("MXNET_GLUON_REPO", server.url)
    monkeypatch.setenv("DIST_FT_ONNX_REPO", f"{server.url}/onnx/")
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "home"))
    server.params = tmp_path / "home" / "models" / f"tiny_v2-{sha1[:8]}.params"
    server.zip_path = f"/gluon/models/{server.params.stem}.zip"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(server.params.name, b"params")
    onnx_path = f"/onnx/{pretrained.ONNX_FOLDER}tiny-v2-7.onnx"
    server.contents = {server.zip_path: archive.getvalue(), onnx_path: b"onnx"}
    return server


def test_auto_downloads_the_file_of_mxnet_once_and_the_command_prints_it(store, capsys):
    assert pretrained.find_local("auto", "tiny_v2") is None
    assert pretrained.locate("auto", "tiny_v2") == store.params
    pretrained.main("auto", "Tiny_v2")
    assert capsys.readouterr().out == f"{store.params}\n"
    assert store.requests == [store.zip_path]
    assert store.params.read_bytes() == b"params"


@pytest.mark.parametrize("content", [None, b"<html>moved</html>"])
def test_auto_downloads_the_onnx_file_when_the_server_of_mxnet_fails(store, content):
    store.contents[store.zip_path] = content
    path = pretrained.locate("auto", "tiny_v2")
    assert (path.name, path.read_bytes()) == ("tiny-v2-7.onnx", b"onnx")


def test_auto_replaces_a_damaged_file(store):
    store.params.parent.mkdir(parents=True)
    store.params.write_bytes(b"damaged")
    assert pretrained.locate("auto", "tiny_v2").read_bytes() == b"params"


def test_a_folder_that_cannot_be_written_is_not_reported_as_unavailable(store, tmp_path):
    (tmp_path / "home").write_text("a file instead of a folder")
    with pytest.raises(UserError, match="MXNET_HOME") as e:
        pretrained.locate("auto", "tiny_v2")
    assert not isinstance(e.value, Unavailable)


def test_the_command_says_what_to_do_when_no_server_delivers(store, capsys):
    store.contents = {}
    with pytest.raises(SystemExit) as e:
        pretrained.main("auto", "tiny_v2")
    assert e.value.code == 69
    output = capsys.readouterr()
    assert output.out == ""
    assert "dist_ft: no pretrained weights of tiny_v2" in output.err
    for file in pretrained.published_files("tiny_v2"):
        assert f"{file.url}: 404" in output.err
        assert file.name in output.err and file.digest in output.err
    assert f"Put one of these files into {store.params.parent}, or pass it" in output.err
    assert "--weights FILE" in output.err and "--weights none" in output.err
