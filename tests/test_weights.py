"""Pretrained weights: every format gives the same network, and nothing is guessed."""

import hashlib
import io
import os
import zipfile
from contextlib import contextmanager, nullcontext
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon.model_zoo import model_store
from mxnet.gluon.model_zoo.vision import BasicBlockV2, ResNetV2

from dist_ft.errors import Unavailable, UserError
from dist_ft.models import pretrained
from tests.conftest import WEIGHTS
from tests.fileserver import left_in, sha256

X = np.random.RandomState(0).rand(2, 3, 64, 64).astype(np.float32)


def small_net(num_classes=7, blocks=1, seed=0, prefix="net_"):
    """A ResNetV2 of few channels with random features, its running statistics included."""
    mx.random.seed(seed)
    layers, channels = [blocks] * 4, [4, 4, 8, 16, 32]
    net = ResNetV2(BasicBlockV2, layers, channels, classes=num_classes, prefix=prefix)
    net.initialize(mx.init.Xavier())
    net.hybridize()
    net(mx.nd.array(X))
    for parameter in net.collect_params(".*(gamma|beta|running).*").values():
        if parameter.shape != (3,):  # the first BatchNorm's scale is fixed at 1
            parameter.set_data(mx.nd.random.uniform(0.5, 1.5, parameter.shape))
    return net


def features(net):
    return net.features(mx.nd.array(X)).asnumpy()


@pytest.fixture(scope="module")
def trained():
    return small_net(seed=1, prefix="resnetv24_")


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    """The network trained in each format that people have."""
    folder = tmp_path_factory.mktemp("files")
    trained(mx.nd.array(X))
    trained.save_parameters(str(folder / "saved.params"))
    trained.export(str(folder / "net"), 0)
    exported = folder / "net-0000.params"
    plain = {n.split(":")[1]: a for n, a in mx.nd.load(str(exported)).items()}
    mx.nd.save(str(folder / "plain.params"), plain)
    onnx = str(folder / "net.onnx")
    mx.onnx.export_model(str(folder / "net-symbol.json"), str(exported), [X.shape], X.dtype, onnx)
    return folder


@pytest.mark.parametrize("name", ["saved.params", "net-0000.params", "plain.params", "net.onnx"])
def test_every_format_gives_the_features_and_leaves_the_head(files, trained, name):
    net = small_net(num_classes=3)
    head = net.output.weight.data().asnumpy()
    filled = pretrained.fill(net, pretrained.read(files / name), "output.")
    np.testing.assert_array_equal(features(net), features(trained))
    np.testing.assert_array_equal(net.output.weight.data().asnumpy(), head)
    assert len(filled) == 56 and not any(place.startswith("output.") for place in filled)


def test_a_missing_an_extra_and_a_misshapen_parameter_are_named_and_nothing_is_changed(files):
    arrays = pretrained.read(files / "net.onnx")
    del arrays["resnetv24_stage2_conv1_weight"]
    arrays["resnetv24_stage9_conv1_weight"] = mx.nd.zeros((1,))
    arrays["resnetv24_conv0_weight"] = mx.nd.zeros((4, 3, 5, 5))
    net = small_net()
    before = features(net)
    with pytest.raises(UserError) as caught:
        pretrained.fill(net, arrays, "output.")
    message = str(caught.value)
    assert "1 the network has and the file lacks: features.6.0.conv2.weight" in message
    assert "1 the file has and the network lacks: resnetv24_stage9_conv1_weight" in message
    assert "features.1.weight: file (4, 3, 5, 5), network (4, 3, 7, 7)" in message
    assert "name the --model that the file is of" in message
    np.testing.assert_array_equal(features(net), before)


def test_a_file_of_another_depth_is_recognised():
    shallow = {n: p.data() for n, p in small_net(blocks=2)._collect_params_with_prefix().items()}
    with pytest.raises(UserError, match=r"features\.\S+ and \d+ more(.|\n)*--model resnet18_v2"):
        pretrained.fill(small_net(blocks=3), shallow, "output.")


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:3d38\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>Not found</html>", "web page"),
        (b"PK\x03\x04....", "zip"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"no weights at all", "neither"),
    ],
)
def test_what_is_no_file_of_weights_is_called_what_it_is(tmp_path, content, words):
    path = tmp_path / "resnet34_v2.params"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        pretrained.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["saved.params", "net.onnx"])
def test_a_file_cut_at_any_byte_is_refused(files, tmp_path, name):
    whole = (files / name).read_bytes()
    path = tmp_path / name
    for size in [*range(0, 40), *range(40, len(whole), 4999), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=name):
            pretrained.read(path)


@contextmanager
def unprivileged():
    """Root may read every file."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_file_that_the_system_does_not_hand_over_is_named_with_the_reason(files, tmp_path):
    closed = tmp_path / "closed.params"
    closed.write_bytes((files / "saved.params").read_bytes())
    closed.chmod(0)
    failing = Path("/proc/self/mem")  # nothing is mapped at its first byte: an I/O error
    reasons = {closed: "Permission denied", tmp_path: "Is a directory", failing: "Input/output"}
    for path, reason in reasons.items():
        with unprivileged() if path is closed else nullcontext(), pytest.raises(
            UserError
        ) as caught:
            pretrained.read(path)
        assert f"--weights: {path} cannot be read ({reason}" in str(caught.value)
        assert "name another one" in str(caught.value)


def test_a_file_in_a_folder_that_is_closed_to_the_user_is_named(files, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0)
    with unprivileged(), pytest.raises(UserError, match=r"net\.onnx cannot be read \(Permission"):
        pretrained.at_hand(str(folder / "net.onnx"), "resnet34_v2")


def test_the_choice_decides(files, tmp_path):
    assert pretrained.locate("none", "resnet34_v2") is None
    assert pretrained.locate(str(files / "net.onnx"), "resnet34_v2") == files / "net.onnx"
    with pytest.raises(UserError, match=r"absent\.params"):
        pretrained.locate(str(tmp_path / "absent.params"), "resnet34_v2")
    with pytest.raises(UserError, match="no published weights of resnet7_v7"):
        pretrained.locate("auto", "resnet7_v7")


def test_the_published_files_are_known_by_mxnets_own_names(monkeypatch):
    monkeypatch.delenv("MXNET_GLUON_REPO", raising=False)
    monkeypatch.delenv("DIST_FT_ONNX_REPO", raising=False)
    params, onnx = pretrained.sources("resnet34_v2")
    assert params.name == "resnet34_v2-9d6b80bb.params"
    assert params.url.endswith("amazonaws.com/gluon/models/resnet34_v2-9d6b80bb.zip")
    assert onnx.name == "resnet34-v2-7.onnx"
    assert onnx.url.endswith("/validated/vision/classification/resnet/model/resnet34-v2-7.onnx")
    assert [s.name for s in pretrained.sources("resnet50_v1d")] == ["resnet50_v1d-117a384e.params"]


def test_real_weights_of_96_classes_go_into_a_network_of_five():
    if not WEIGHTS.is_file():
        pytest.skip(f"no {WEIGHTS}; DIST_FT_WEIGHTS names a resnet34_v2 .params file")
    net = mx.gluon.model_zoo.vision.resnet34_v2(classes=5)
    net.initialize()
    net(mx.nd.array(X))
    arrays = pretrained.read(WEIGHTS)
    assert len(pretrained.fill(net, arrays, "output.")) == 176
    first = net.features[1].weight.data().asnumpy()
    np.testing.assert_array_equal(first, arrays["features.1.weight"].asnumpy())


@pytest.fixture
def zoo(server, tmp_path, monkeypatch, files):
    """A zoo on the server with one model, 'tiny_v2', as the .zip of a .params and as ONNX."""
    params, onnx = (files / "saved.params").read_bytes(), (files / "net.onnx").read_bytes()
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
    server.onnx_path = f"/onnx/{pretrained.ONNX_FOLDER}tiny-v2-7.onnx"
    server.contents = {server.zip_path: archive.getvalue(), server.onnx_path: onnx}
    server.params_name = f"tiny_v2-{sha1[:8]}.params"
    server.models = tmp_path / "home" / "models"
    return server


def test_auto_downloads_mxnets_own_file_once(zoo):
    path = pretrained.locate("auto", "tiny_v2")
    assert path == zoo.models / zoo.params_name
    assert len(pretrained.read(path)) == 58
    assert pretrained.locate("auto", "Tiny_v2") == path
    assert [asked for asked, _ in zoo.requests] == [zoo.zip_path]
    assert left_in(zoo.models) == [zoo.params_name]


def test_auto_takes_the_onnx_file_where_mxnets_address_fails(zoo):
    del zoo.contents[zoo.zip_path]
    assert pretrained.locate("auto", "tiny_v2") == zoo.models / "tiny-v2-7.onnx"


def test_auto_takes_the_onnx_file_where_mxnets_address_gives_something_else(zoo):
    zoo.contents[zoo.zip_path] = b"<html>moved</html>"
    assert pretrained.locate("auto", "tiny_v2") == zoo.models / "tiny-v2-7.onnx"
    assert left_in(zoo.models) == ["tiny-v2-7.onnx"]


def test_auto_replaces_a_damaged_file(zoo):
    zoo.models.mkdir(parents=True)
    (zoo.models / zoo.params_name).write_bytes(b"cut")
    assert len(pretrained.read(pretrained.locate("auto", "tiny_v2"))) == 58


def test_when_nothing_can_be_had_the_error_says_what_to_put_where(zoo):
    zoo.contents = {}
    with pytest.raises(Unavailable) as caught:
        pretrained.locate("auto", "tiny_v2")
    message = str(caught.value)
    assert caught.value.exit_code == 69
    for source in pretrained.sources("tiny_v2"):
        assert all(word in message for word in source)
    assert message.count("404") == 2
    assert str(zoo.models) in message and "--weights none" in message


def test_a_folder_that_cannot_be_written_is_named(zoo, tmp_path):
    (tmp_path / "home").write_text("a file in the way")
    with pytest.raises(UserError, match="MXNET_HOME") as caught:
        pretrained.locate("auto", "tiny_v2")
    assert not isinstance(caught.value, Unavailable)
