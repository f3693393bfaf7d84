"""training.checkpoint and training.state: what was saved comes back; damage is never loaded."""

import contextlib
import json
import logging

import mxnet as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mxnet.gluon import nn

from dist_ft.data.transforms import InputSpec
from dist_ft.errors import UserError
from dist_ft.training import checkpoint
from dist_ft.training.state import FORMAT_VERSION, EpochSums, TrainingState

FILES = ("net.params", "trainer.params", "state.json")


def arrays(value):
    return {"output.weight": mx.nd.full((50,), value), "output.bias": mx.nd.full((3,), -value)}


def save(run, step, keep=10, **values):
    state = TrainingState(step=step, run_spec={"--lr": 0.1, "classes": ["crème"]}, **values)
    return checkpoint.save(run, state, arrays(step), {"w.0": mx.nd.full((5,), step)}, keep)


def saved_steps(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_what_was_saved_comes_back(tmp_path):
    state = TrainingState(
        step=18,
        epoch_sums=EpochSums(1.25, 3, 4),
        best_accuracy=0.5,
        epochs_without_improvement=2,
        elapsed_s=7.5,
        loss_scale=[1024.0, 3],
        run_spec={"--lr": 0.1, "classes": ["a", "crème"]},
        num_ranks=4,
        dtype="float16",
        classes=["a", "crème"],
        input_spec=InputSpec(32, 36, True),
    )
    path = checkpoint.save(tmp_path, state, arrays(18), {"w.0": mx.nd.full((5,), 18)}, keep=1)
    found = checkpoint.latest(tmp_path)
    assert found.path == path == tmp_path / "checkpoints" / "step-00000018"
    assert found.state == state
    assert (found.step, found.accuracy) == (18, -1.0)
    for name, array in arrays(18).items():
        assert (found.net_arrays()[name].asnumpy() == array.asnumpy()).all()
    assert found.trainer_arrays()["w.0"].asnumpy().tolist() == [18] * 5


def test_an_optimizer_without_state_is_saved_too(tmp_path):
    checkpoint.save(tmp_path, TrainingState(step=1), arrays(1), {}, keep=1)
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
    path = checkpoint.save(tmp_path, TrainingState(step=1), named, {}, keep=1)
    assert (other(x).asnumpy() != net(x).asnumpy()).any()
    other.load_parameters(str(path / "net.params"))
    assert (other(x).asnumpy() == net(x).asnumpy()).all()


def test_the_last_keep_and_the_best_are_kept(tmp_path):
    for step, accuracy in enumerate([0.1, 0.9, 0.3, 0.9, 0.2, 0.4]):
        save(tmp_path, step, keep=2, test_accuracy=accuracy)
    assert saved_steps(tmp_path) == ["step-00000001", "step-00000004", "step-00000005"]
    assert checkpoint.latest(tmp_path).step == 5
    assert checkpoint.best(tmp_path).step == 1  # the earlier of two equal ones


def test_a_checkpoint_that_was_not_evaluated_is_never_the_best(tmp_path):
    save(tmp_path, 1, test_accuracy=0.0)
    save(tmp_path, 2)
    assert checkpoint.best(tmp_path).step == 1
    assert checkpoint.latest(tmp_path).step == 2


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 3, keep=1)
    save(tmp_path, 3, keep=1, test_accuracy=0.5)
    assert saved_steps(tmp_path) == ["step-00000003"]
    assert checkpoint.latest(tmp_path).accuracy == 0.5


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    leftover = tmp_path / "checkpoints" / ".step-00000001.4711.writing"
    leftover.mkdir(parents=True)
    save(tmp_path, 2)
    assert saved_steps(tmp_path) == ["step-00000002"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    run = tmp_path_factory.mktemp("two")
    save(run, 1)
    save(run, 2)
    return run


@contextlib.contextmanager
def overwritten(path, data):
    original = path.read_bytes()
    path.write_bytes(data)
    yield
    path.write_bytes(original)


@pytest.mark.parametrize("name", FILES)
def test_a_file_truncated_at_any_byte_is_detected(two, name):
    path = two / "checkpoints/step-00000002" / name
    data = path.read_bytes()
    for length in {*range(0, len(data), 31), 1, len(data) - 1}:
        with overwritten(path, data[:length]):
            assert checkpoint.latest(two).step == 1, length
    assert checkpoint.latest(two).step == 2


@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_flipped_bit_is_detected(two, name, place, bit):
    path = two / "checkpoints/step-00000002" / name
    state = checkpoint.latest(two).state
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    with overwritten(path, bytes(data)):
        found = checkpoint.latest(two)
        assert found.step == 1 or (name == "state.json" and found.state == state)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_detected(tmp_path, name):
    save(tmp_path, 1)
    (save(tmp_path, 2) / name).unlink()
    assert checkpoint.latest(tmp_path).step == 1


def test_a_damaged_checkpoint_is_skipped_with_a_warning(tmp_path, caplog):
    save(tmp_path, 1)
    path = save(tmp_path, 2) / "net.params"
    path.write_bytes(path.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert checkpoint.latest(tmp_path).step == 1
    assert caplog.messages == [f"{path}: damaged; its SHA-256 has changed; skipped"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '"x"', '{"sha256": "x"}', '{"sha256": {}}'])
def test_foreign_files_are_skipped(tmp_path, text):
    save(tmp_path, 1)
    foreign = tmp_path / "checkpoints" / "step-00000009"
    foreign.mkdir()
    (foreign / "state.json").write_text(text)
    (tmp_path / "checkpoints" / "step-99999999").write_text("a file")
    assert checkpoint.latest(tmp_path).step == 1
    save(tmp_path, 2)
    assert checkpoint.latest(tmp_path).step == 2


def test_no_file_is_a_pickle(tmp_path):
    path = save(tmp_path, 1)
    assert sorted(file.name for file in path.iterdir()) == sorted(FILES)
    assert json.loads((path / "state.json").read_text())["step"] == 1
    for name in ("net.params", "trainer.params"):
        assert (path / name).read_bytes()[:2] == b"\x12\x01"  # MXNet's magic number


VERSION_1 = {
    "step": 4,
    "best_accuracy": 0.5,
    "epochs_without_better": 1,
    "elapsed_s": 0.25,
    "epoch_sums": {"loss_sum": 37.5, "correct": 5, "num_images": 24},
    "ranks": 2,
    "facts": {"--dtype": "float32", "images a step": 24},
    "classes": ["a", "b"],
    "view": {"image_size": 32, "resize": 37, "keep_ratio": False},
}


def test_a_state_of_version_1_is_read():
    state = TrainingState.from_dict({**VERSION_1, "loss_scale": [2.0, 1], "test_accuracy": 0.4})
    assert state == TrainingState(
        step=4,
        epoch_sums=EpochSums(37.5, 5, 24),
        test_accuracy=0.4,
        best_accuracy=0.5,
        epochs_without_improvement=1,
        elapsed_s=0.25,
        loss_scale=[2.0, 1],
        run_spec={"--dtype": "float32", "images per step": 24},
        num_ranks=2,
        classes=["a", "b"],
        input_spec=InputSpec(32, 37, False),
    )
    without = TrainingState.from_dict(VERSION_1)  # saved in the middle of an epoch, in float32
    assert (without.test_accuracy, without.loss_scale) == (None, None)


def test_a_checkpoint_of_a_newer_version_is_rejected_and_not_skipped(tmp_path, monkeypatch):
    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr("dist_ft.training.state.FORMAT_VERSION", FORMAT_VERSION + 1)
        path = save(tmp_path, 2)
    for find in (checkpoint.latest, checkpoint.best):
        with pytest.raises(UserError) as rejected:
            find(tmp_path)
        assert f"{path}: checkpoint format version {FORMAT_VERSION + 1}" in str(rejected.value)
        assert "use the version of dist_ft that wrote" in str(rejected.value)
