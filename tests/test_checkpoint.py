"""training.checkpoint and training.state: what was saved comes back; damage is never loaded."""

import contextlib
import json
import logging
from dataclasses import replace

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


def save(run, step, keep=10, **values):
    state = TrainingState(step=step, run_spec={"--lr": 0.1, "classes": ["crème"]}, **values)
    arrays = {"weight": mx.nd.full((50,), step)}, {"w.0": mx.nd.full((5,), step)}
    return checkpoint.save(run, state, *arrays, keep)


def saved_steps(run):
    """Numbers of the saved steps; fails for any other file."""
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    return [int(name.replace("step-", "")) for name in names]


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
    net, trainer = {"output.weight": mx.nd.arange(50)}, {"w.0": mx.nd.full((5,), 18)}
    path = checkpoint.save(tmp_path, state, net, trainer, keep=1)
    found = checkpoint.latest(tmp_path)
    assert found == (tmp_path / "checkpoints" / "step-00000018", state)
    assert (found.path, found.step, found.accuracy) == (path, 18, -1.0)
    assert found.net_arrays()["output.weight"].asnumpy().tolist() == list(range(50))
    assert found.trainer_arrays()["w.0"].asnumpy().tolist() == [18] * 5


def test_class_names_of_an_older_version_are_composed(tmp_path):
    classes = ["cafe\u0301", "tea"]
    state = TrainingState(run_spec={"classes": classes}, classes=classes)
    checkpoint.save(tmp_path, state, {"weight": mx.nd.ones(1)}, {}, keep=1)
    found = checkpoint.latest(tmp_path).state
    assert found.classes == found.run_spec["classes"] == ["caf\u00e9", "tea"]


def test_a_run_without_checkpoints_has_none(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.best(tmp_path / "nowhere") is None


def test_gluon_loads_the_parameters_and_an_optimizer_may_have_no_state(tmp_path):
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
    assert checkpoint.latest(tmp_path).trainer_arrays() == {}


def test_the_last_keep_and_the_best_are_kept(tmp_path):
    for step, accuracy in enumerate([0.1, 0.9, 0.3, 0.9, 0.2, 0.4]):
        save(tmp_path, step, keep=2, selection_accuracy=accuracy)
    assert saved_steps(tmp_path) == [1, 4, 5]
    assert checkpoint.latest(tmp_path).step == 5
    assert checkpoint.best(tmp_path).step == 1  # the earlier of two equal ones


def test_a_checkpoint_that_was_not_evaluated_is_the_best_only_among_its_like(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    assert checkpoint.best(tmp_path).step == 2
    save(tmp_path, 3, selection_accuracy=0.0)
    save(tmp_path, 4)
    assert checkpoint.best(tmp_path).step == 3
    assert checkpoint.latest(tmp_path).step == 4


def test_saving_replaces_the_same_step_and_removes_leftovers_of_a_killed_process(tmp_path):
    (tmp_path / "checkpoints" / ".step-00000001.4711.writing").mkdir(parents=True)
    save(tmp_path, 3, keep=1)
    save(tmp_path, 3, keep=1, selection_accuracy=0.5)
    assert saved_steps(tmp_path) == [3]
    assert checkpoint.latest(tmp_path).accuracy == 0.5


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


@given(
    name=st.sampled_from(FILES),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.one_of(st.none(), st.integers(0, 7)),
)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_truncated_file_and_a_flipped_bit_are_detected(two, name, place, bit):
    path = two / "checkpoints/step-00000002" / name
    state = checkpoint.latest(two).state
    data = bytearray(path.read_bytes())
    position = int(place * len(data))
    if bit is None:
        del data[position:]
    else:
        data[position] ^= 1 << bit
    with overwritten(path, bytes(data)):
        found = checkpoint.latest(two)
        assert found.step == 1 or (name == "state.json" and found.state == state)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_damaged_file_is_skipped_with_a_warning(two, caplog, name):
    path = two / "checkpoints/step-00000002" / name
    with overwritten(path, path.read_bytes()[:-1]), caplog.at_level(logging.WARNING):
        assert checkpoint.latest(two).step == 1
        path.unlink()
        assert checkpoint.latest(two).step == 1
    damaged, missing = caplog.messages
    if name != "state.json":
        assert damaged == f"{path}: damaged; its SHA-256 has changed; skipped"
    assert missing.startswith(f"{path.parent}: not a complete checkpoint ([Errno 2] No such file")


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


def test_a_state_of_version_1_is_read():
    values = {
        "step": 4,
        "best_accuracy": 0.5,
        "epochs_without_better": 1,
        "elapsed_s": 0.25,
        "epoch_sums": {"loss_sum": 37.5, "correct": 5, "num_images": 24},
        "ranks": 2,
        "facts": {"--dtype": "bfloat16", "images a step": 24},
        "classes": ["a", "b"],
        "view": {"image_size": 32, "resize": 37, "keep_ratio": False},
    }
    expected = TrainingState(
        step=4,
        epoch_sums=EpochSums(37.5, 5, 24),
        best_accuracy=0.5,
        epochs_without_improvement=1,
        elapsed_s=0.25,
        run_spec={"--dtype": "bfloat16", "images per step": 24},
        num_ranks=2,
        dtype="bfloat16",
        classes=["a", "b"],
        input_spec=InputSpec(32, 37, False),
    )
    assert TrainingState.from_dict(values) == expected
    more = {"loss_scale": [2.0, 1], "dtype": "float16"}
    actual = TrainingState.from_dict({**values, **more, "test_accuracy": 0.4})
    assert actual == replace(expected, **more, selection_accuracy=0.4)


def test_a_state_of_version_2_has_its_accuracy_under_another_name():
    state = TrainingState(step=3, selection_accuracy=0.25, best_accuracy=0.5)
    values = {**state.to_dict(), "format_version": 2}
    values["test_accuracy"] = values.pop("selection_accuracy")
    assert TrainingState.from_dict(values) == state


def test_a_checkpoint_of_a_newer_version_is_rejected_and_not_skipped(tmp_path, monkeypatch):
    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr("dist_ft.training.state.FORMAT_VERSION", FORMAT_VERSION + 1)
        newer = save(tmp_path / "newer", 2)
    path = newer.rename(tmp_path / "checkpoints" / newer.name)
    for find in (checkpoint.latest, checkpoint.best):
        with pytest.raises(UserError) as rejected:
            find(tmp_path)
        assert f"{path}: checkpoint format version {FORMAT_VERSION + 1}" in str(rejected.value)
        assert "use the version of dist_ft that wrote" in str(rejected.value)
