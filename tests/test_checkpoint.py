"""checkpoint: what was saved comes back, what is damaged is never chosen; no pickle."""

import ast
import contextlib
import json
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mxnet.gluon import nn

from dist_ft.training import checkpoint

FILES = ("net.params", "trainer.params", "state.json")


def arrays(value, size=50):
    return {"output.weight": mx.nd.full((size,), value), "output.bias": mx.nd.full((3,), -value)}


def save(run, step, keep=10, size=50, **state):
    state = {"step": step, "facts": {"--lr": 0.1, "classes": ["a", "crème"]}, **state}
    return checkpoint.save(run, state, arrays(step, size), {"w.0": mx.nd.full((5,), step)}, keep)


def steps(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_what_was_saved_comes_back(tmp_path):
    path = save(tmp_path, 18, best_accuracy=0.5, epoch_sums={"loss_sum": 1.25})
    found = checkpoint.latest(tmp_path)
    assert found.path == path == tmp_path / "checkpoints" / "step-00000018"
    assert (found.step, found.accuracy) == (18, -1.0)
    assert found.state["epoch_sums"] == {"loss_sum": 1.25}
    assert found.state["facts"]["classes"] == ["a", "crème"]
    for name, array in arrays(18).items():
        assert (found.net_arrays()[name].asnumpy() == array.asnumpy()).all()
    assert found.trainer_arrays()["w.0"].asnumpy().tolist() == [18] * 5


def test_an_optimizer_without_arrays_is_saved_too(tmp_path):
    checkpoint.save(tmp_path, {"step": 1}, arrays(1), {}, keep=1)
    assert checkpoint.latest(tmp_path).trainer_arrays() == {}


def test_a_run_without_checkpoints_has_none(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.best(tmp_path / "nowhere") is None


def test_gluon_loads_the_parameters(tmp_path):
    def build():
        net = nn.HybridSequential()
        net.add(nn.Dense(4, in_units=3), nn.BatchNorm(in_channels=4))
        net.initialize(mx.init.Normal(1), force_reinit=True)
        return net

    net, other, x = build(), build(), mx.nd.ones((2, 3))
    named = {name: p.data() for name, p in net._collect_params_with_prefix().items()}
    path = checkpoint.save(tmp_path, {"step": 1}, named, {}, keep=1)
    assert (other(x).asnumpy() != net(x).asnumpy()).any()
    other.load_parameters(str(path / "net.params"))
    assert (other(x).asnumpy() == net(x).asnumpy()).all()


def test_the_last_keep_and_the_best_stay(tmp_path):
    for step, accuracy in enumerate([0.1, 0.9, 0.3, 0.9, 0.2, 0.4]):
        save(tmp_path, step, keep=2, test_accuracy=accuracy)
    assert steps(tmp_path) == ["step-00000001", "step-00000004", "step-00000005"]
    assert checkpoint.latest(tmp_path).step == 5
    assert checkpoint.best(tmp_path).step == 1  # the earlier of equals


def test_one_in_the_middle_of_an_epoch_is_never_the_best(tmp_path):
    save(tmp_path, 1, test_accuracy=0.0)
    save(tmp_path, 2)
    assert checkpoint.best(tmp_path).step == 1
    assert checkpoint.latest(tmp_path).step == 2


def test_a_step_that_is_saved_again_is_replaced(tmp_path):
    save(tmp_path, 3, keep=1)
    save(tmp_path, 3, keep=1, test_accuracy=0.5)
    assert steps(tmp_path) == ["step-00000003"]
    assert checkpoint.latest(tmp_path).accuracy == 0.5


def test_steps_beyond_a_hundred_thousand_are_in_order(tmp_path):
    for step in (99_999, 100_000, 2_000_000, 7):
        save(tmp_path, step)
    assert checkpoint.latest(tmp_path).step == 2_000_000


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    run = tmp_path_factory.mktemp("two")
    save(run, 1)
    save(run, 2)
    return run


@contextlib.contextmanager
def damaged(path, data):
    whole = path.read_bytes()
    path.write_bytes(data)
    yield
    path.write_bytes(whole)


@pytest.mark.parametrize("name", FILES)
def test_one_cut_at_any_byte_is_never_chosen(two, name):
    path = two / "checkpoints/step-00000002" / name
    whole = path.read_bytes()
    for length in {*range(0, len(whole), 7), 1, len(whole) - 1}:
        with damaged(path, whole[:length]):
            assert checkpoint.latest(two).step == 1, length
    assert checkpoint.latest(two).step == 2


@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_one_with_a_flipped_bit_is_never_chosen(two, name, place, bit):
    path = two / "checkpoints/step-00000002" / name
    state = checkpoint.latest(two).state
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    with damaged(path, bytes(data)):
        found = checkpoint.latest(two)
        assert found.step == 1 or (name == "state.json" and found.state == state)


@pytest.mark.parametrize("name", FILES)
def test_one_that_lacks_a_file_is_never_chosen(tmp_path, name):
    save(tmp_path, 1)
    (save(tmp_path, 2) / name).unlink()
    assert checkpoint.latest(tmp_path).step == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '"x"', '{"sha256": "x"}', '{"sha256": {}}'])
def test_what_somebody_else_left_there_is_passed_over(tmp_path, text):
    save(tmp_path, 1)
    foreign = tmp_path / "checkpoints" / "step-00000009"
    foreign.mkdir()
    (foreign / "state.json").write_text(text)
    (tmp_path / "checkpoints" / "step-99999999").write_text("a file")
    assert checkpoint.latest(tmp_path).step == 1
    save(tmp_path, 2)
    assert checkpoint.latest(tmp_path).step == 2


def test_no_pickle_is_imported_nor_written(tmp_path):
    tree = ast.parse(Path(checkpoint.__file__).read_text())
    imported = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    ]
    imported += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert "json" in imported
    assert not [name for name in imported if "pickle" in name or name in ("marshal", "shelve")]
    path = save(tmp_path, 1)
    assert sorted(file.name for file in path.iterdir()) == sorted(FILES)
    assert json.loads((path / "state.json").read_text())["step"] == 1
    for name in ("net.params", "trainer.params"):
        assert (path / name).read_bytes()[:2] == b"\x12\x01"  # MXNet's own magic number
    assert np.isfinite(checkpoint.latest(tmp_path).net_arrays()["output.bias"].asnumpy()).all()
