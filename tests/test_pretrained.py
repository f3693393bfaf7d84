"""models.pretrained: which file a run starts from, downloaded from a real server on loopback."""

import hashlib
import io
import socket
import zipfile
from pathlib import Path

import pytest
from mxnet.gluon.model_zoo import model_store

from dist_ft.errors import Unavailable, UserError
from dist_ft.models import imgclsmob, pretrained


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
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert pretrained.published_files("resnet50_v1d")[0].name == "resnet50_v1d-117a384e.params"
    params, onnx, converted = pretrained.published_files("ResNet34_v2")
    assert params.name == "resnet34_v2-9d6b80bb.params"
    assert params.urls[0].endswith("amazonaws.com/gluon/models/resnet34_v2-9d6b80bb.zip")
    assert onnx.name == "resnet34-v2-7.onnx"
    repo = "https://huggingface.co/onnxmodelzoo/legacy_models/resolve"
    folder = "validated/vision/classification/resnet/model"
    assert onnx.urls == (
        f"{repo}/813b930/{folder}/resnet34-v2-7.onnx",
        f"{repo}/main/{folder}/resnet34-v2-7.onnx",
    )
    assert converted.name == "preresnet34-0811-f8fe98a2.params"
    release = "https://github.com/osmr/imgclsmob/releases/download/v0.0.2"
    assert converted.urls == (f"{release}/preresnet34-0811-f8fe98a2.params.zip",)


def zipped(name: str, content: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, content)
    return archive.getvalue()


@pytest.fixture
def store(server, tmp_path, monkeypatch):
    """A server of all sources of one model, 'tiny_v2', in `contents` in the order of use."""
    sha1 = hashlib.sha1(b"params").hexdigest()
    sha256 = hashlib.sha256(b"onnx").hexdigest()
    converted_sha1 = hashlib.sha1(b"converted").hexdigest()
    monkeypatch.setitem(model_store._model_sha1, "tiny_v2", sha1)
    monkeypatch.setitem(pretrained.ONNX_SHA256, "tiny-v2-7", sha256)
    monkeypatch.setitem(imgclsmob.FILES, "tiny_v2", ("tiny-0811", converted_sha1))
    monkeypatch.setattr(imgclsmob, "RELEASE", f"{server.url}/release/")
    monkeypatch.setenv("MXNET_GLUON_REPO", server.url)
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/")
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "home"))
    server.params = tmp_path / "home" / "models" / f"tiny_v2-{sha1[:8]}.params"
    converted = f"tiny-0811-{converted_sha1[:8]}.params"
    hub = "/onnxmodelzoo/legacy_models/resolve"
    server.contents = {
        f"/gluon/models/{server.params.stem}.zip": zipped(server.params.name, b"params"),
        f"{hub}/813b930/{pretrained.ONNX_FOLDER}tiny-v2-7.onnx": b"onnx",
        f"{hub}/main/{pretrained.ONNX_FOLDER}tiny-v2-7.onnx": b"onnx",
        f"/release/{converted}.zip": zipped(converted, b"converted"),
    }
    server.paths = list(server.contents)
    return server


def test_auto_downloads_the_file_of_mxnet_once_and_the_command_prints_it(store, capsys):
    assert pretrained.find_local("auto", "tiny_v2") is None
    assert pretrained.locate("auto", "tiny_v2") == store.params
    pretrained.main("auto", "Tiny_v2")
    assert capsys.readouterr().out == f"{store.params}\n"
    assert store.requests == store.paths[:1]
    assert store.params.read_bytes() == b"params"


@pytest.mark.parametrize("content", [None, b"<html>moved</html>"], ids=["404", "wrong digest"])
@pytest.mark.parametrize("num_broken", [1, 2, 3])
def test_auto_uses_the_next_source_when_one_fails(store, num_broken, content):
    for path in store.paths[:num_broken]:
        store.contents[path] = content
    path = pretrained.locate("auto", "tiny_v2")
    expected = {1: b"onnx", 2: b"onnx", 3: b"converted"}
    assert path.read_bytes() == expected[num_broken]
    assert store.requests == store.paths[: num_broken + 1]
    assert pretrained.find_local("auto", "tiny_v2") == path


def test_auto_uses_the_next_source_when_a_server_cannot_be_reached(store, monkeypatch):
    monkeypatch.setenv("MXNET_GLUON_REPO", closed_url())
    monkeypatch.setenv("HF_ENDPOINT", closed_url())
    assert pretrained.locate("auto", "tiny_v2").read_bytes() == b"converted"


def closed_url() -> str:
    """The URL of a port on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


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
        for url in file.urls:
            assert f"{url}: 404" in output.err
        assert file.name in output.err and file.digest in output.err
    assert f"Put one of these files into {store.params.parent}, or pass it" in output.err
    assert "--weights FILE" in output.err and "--weights none" in output.err


def test_without_a_network_the_command_prints_one_line(store, monkeypatch, capsys, caplog):
    caplog.set_level("INFO")
    monkeypatch.setenv("MXNET_GLUON_REPO", closed_url())
    monkeypatch.setenv("HF_ENDPOINT", closed_url())
    monkeypatch.setattr(imgclsmob, "RELEASE", f"{closed_url()}/release/")
    with pytest.raises(SystemExit) as e:
        pretrained.main("auto", "tiny_v2")
    assert e.value.code == 69
    output = capsys.readouterr()
    assert (output.out, caplog.messages) == ("", [])
    (line,) = output.err.splitlines()
    assert line.startswith(f"dist_ft: no pretrained weights of tiny_v2 in {store.params.parent}")
    assert f"no connection to 127.0.0.1; put {store.params.name} there" in line
