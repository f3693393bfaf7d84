"""dist_ft.train: a training run in one process, and how the command ends."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from dataclasses import replace

import mxnet as mx
import pytest

from dist_ft import train
from dist_ft.errors import CollectiveError, UserError
from dist_ft.training import checkpoint
from dist_ft.training.run import Run
from dist_ft.training.setup import build_run
from dist_ft.training.stop_signals import stop_requests
from tests.conftest import TINY, run_command, run_job
from tests.rounding import assert_close
from tests.runs import arrays_of, rows_of, tiny_config

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture
def config(tiny, tmp_path):
    """One epoch of three steps."""
    return tiny_config(tiny, epochs=1, out=str(tmp_path / "run"))


def test_the_number_of_workers_does_not_change_any_byte(config, world, tmp_path):
    for num_workers in (1, 5):
        out = str(tmp_path / str(num_workers))
        train.fit(replace(config, out=out, num_workers=num_workers), world)
    assert arrays_of(tmp_path / "1") == arrays_of(tmp_path / "5")


@pytest.mark.jobs
def test_a_head_on_features_that_are_not_flat_is_trained(config, world):
    """The features of gluon's first ResNets are (n, 512, 1, 1)."""
    frozen = replace(config, model="resnet18_v1", backbone_lr_mult=0.0)
    assert train.fit(frozen, world).step == 3


def test_gradient_descent_on_the_head_lowers_the_loss_every_epoch(config, world, tmp_path):
    """With fixed features and the whole data set per step, the loss is convex in the head."""
    config = replace(config, backbone_lr_mult=0.0, bn="frozen", views=1, batch_size=53, epochs=6)
    train.fit(replace(config, momentum=0.0, wd=0.0, head_lr_mult=1.0, lr=0.02), world)
    losses = [row["train_loss"] for row in rows_of(tmp_path / "run")]
    assert len(set(losses)) == 6
    assert losses == sorted(losses, reverse=True)


def test_the_first_lines_say_what_balancing_does(config, world, tmp_path, caplog):
    counts = {"class_a": 13, "class_b": 9, "class_c": 11, "class_d": 10, "class_e": 10}
    (tmp_path / "weights.json").write_text(json.dumps({name: 1 / n for name, n in counts.items()}))
    with caplog.at_level("INFO", logger="dist_ft"):
        config = replace(config, max_steps=1)
        weights = str(tmp_path / "weights.json")
        train.fit(replace(config, class_weights=weights), world)
        train.fit(replace(config, balance=True, resume="never"), world)
    assert f"class weights from {53 / 65:.3g} (class_a) to {53 / 45:.3g} (class_b)" in caplog.text
    assert (
        "an epoch draws 53 images, 10.6 of each class: each image of the smallest class 1.18 times,"
        " of the largest 0.815 times"
    ) in caplog.text


def test_class_weights_cancel_in_a_step_of_one_image(config, world, tmp_path):
    """The gradient is divided by the sum of the weights of its images, not by their number."""
    weights = tmp_path / "weights.yaml"
    weights.write_text("class_a: 9\nclass_b: 1\nclass_c: 4\nclass_d: 2\nclass_e: 0.1\n")
    config = replace(config, batch_size=1, max_steps=4, bn="frozen")
    for name, source in (("weighted", str(weights)), ("plain", "")):
        train.fit(replace(config, out=str(tmp_path / name), class_weights=source), world)
    weighted, plain = (
        checkpoint.latest(tmp_path / name).net_arrays() for name in ("weighted", "plain")
    )
    for path in plain:
        # Each step rounds the weighted loss and its gradient.
        assert_close(weighted[path].asnumpy(), plain[path].asnumpy(), num_terms=4 * 4)


def test_class_weights_are_compared_by_value_when_a_run_resumes(config, world, tmp_path):
    path = tmp_path / "weights.json"
    weights = {f"class_{letter}": 1 for letter in "abcde"}
    path.write_text(json.dumps(weights))
    config = replace(config, class_weights=str(path))
    train.fit(replace(config, max_steps=1), world)
    path.write_text(json.dumps({**weights, "class_a": 2}))
    with pytest.raises(UserError, match=r"different settings \(class weights: \["):
        train.fit(config, world)
    path.write_text(json.dumps(dict.fromkeys(weights, 2)))  # in the same proportions
    assert train.fit(config, world).step == 3


def test_mixing_is_rejected_with_cached_features(config, world):
    config = replace(config, backbone_lr_mult=0.0, bn="frozen", mixup=0.2, max_steps=1)
    with pytest.raises(UserError, match="--mixup 0.2 --cutmix 0: .*; pass --views 0"):
        train.fit(config, world)
    assert not config.folder.exists()
    assert train.fit(replace(config, views=0), world).step == 1


def test_patience_ends_a_run_that_does_not_improve(config, world):
    config = replace(config, lr=0.0, epochs=9, patience=2)
    assert train.fit(config, world).step == 3 * 3  # the first epoch is the best, then two more
    assert train.fit(config, world).step == 9


def test_a_loss_that_is_not_finite_stops_the_run(config, world, tmp_path):
    with pytest.raises(CollectiveError, match=r"step \d is not finite on rank 0 of 1"):
        train.fit(replace(config, lr=1e30), world)
    assert checkpoint.latest(tmp_path / "run") is None


def test_too_many_unreadable_images_stop_the_run(config, world, tmp_path, tiny):
    shutil.copytree(tiny, tmp_path / "data")
    for path in list((tmp_path / "data/train/class_a").iterdir())[:2]:
        path.write_bytes(path.read_bytes()[:40])
    config = replace(config, data=str(tmp_path / "data"))
    with pytest.raises(CollectiveError, match=r"of 53 images .* --max-bad-share 0.01 allows"):
        train.fit(config, world)
    train.fit(replace(config, max_bad_share=0.05), world)


def test_a_test_image_that_is_also_a_training_image_stops_the_run(config, world, tmp_path):
    shutil.copytree(config.data, tmp_path / "data")
    source = next((tmp_path / "data/train/class_b").iterdir())
    shutil.copy(source, tmp_path / "data/test/class_b/copy.jpg")
    config = replace(config, data=str(tmp_path / "data"), max_steps=1)
    with pytest.raises(UserError) as leak:
        train.fit(config, world)
    assert leak.value.exit_code == 2
    assert f"test/class_b/copy.jpg is {source}" in str(leak.value)
    assert "--allow-leak" in str(leak.value)
    assert not (tmp_path / "run").exists()
    train.fit(replace(config, allow_leak=True), world)


def test_the_loop_reads_only_results_from_two_steps_ago(config, world, monkeypatch):
    """So the device always has work. Watches all calls that copy an array to the host or wait."""
    ages, other_reads, all_sums = [], [], []
    train_step, train_batches, asnumpy = train.train_step, Run.train_batches, mx.nd.NDArray.asnumpy

    def recorded_step(*args):
        all_sums.append(train_step(*args))
        return all_sums[-1]

    def recorded_read(array):
        steps = [step for step, sums in enumerate(all_sums) if sums is array]
        if steps:
            ages.append(len(all_sums) - 1 - steps[0])
        else:
            other_reads.append(array.shape)
        return asnumpy(array)

    def watched_batches(run, epoch, steps):
        with pytest.MonkeyPatch.context() as patch:  # the end of an epoch may wait
            patch.setattr(mx.nd.NDArray, "asnumpy", recorded_read)
            for name in ("wait_to_read", "asscalar"):
                patch.setattr(mx.nd.NDArray, name, lambda array: other_reads.append(array.shape))
            patch.setattr(mx.nd, "waitall", lambda: other_reads.append("all"))
            yield from train_batches(run, epoch, steps)

    monkeypatch.setattr(Run, "train_batches", watched_batches)
    monkeypatch.setattr(train, "train_step", recorded_step)
    train.fit(replace(config, batch_size=4), world)
    assert ages == [2] * 12  # of 14 steps
    assert other_reads == []


def test_a_disk_that_fills_up_between_checkpoints_does_not_block_the_run(config, world):
    """tensorboardX's writer thread dies on a full disk; its queue would then fill up for ever."""
    run = build_run(replace(config, batch_size=4, log_every=1), world)
    thread = run.logger._writer.file_writer.event_writer._worker
    thread.stop()
    thread.join()
    with pytest.raises(UserError, match="choose another --out"), stop_requests() as stop:
        for step, batch in zip(range(14), run.train_batches(0, range(14))):
            weight_sum = run.begin_step(step, batch, stop)
            sums = train.train_step(run.net, run.trainer, batch.on(world.ctx), weight_sum)
            run.end_step(step, sums, batch.num_images)


@pytest.mark.parametrize(
    "flag, value, exit_code, message",
    [
        ("--data", "nowhere", 1, "no such folder"),
        ("--device", "gpu", 1, "sees no GPU"),
        ("--freeze", "no_such_layer", 1, "matches no parameter"),
        ("--out", "/dev/null/run", 1, "choose another --out"),
        ("--lr", "-1", 2, "these settings cannot be used"),
    ],
)
def test_the_command_ends_with_a_remedy_and_an_exit_code(
    tiny, tmp_path, monkeypatch, capsys, flag, value, exit_code, message
):
    paths = ["--data", str(tiny), "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["train", *paths, *TINY, flag, value])
    with pytest.raises(SystemExit) as ended:
        train.main()
    shown = capsys.readouterr().err
    if isinstance(ended.value.code, str):  # Python prints it and exits with 1
        shown, ended.value.code = ended.value.code, 1
    assert ended.value.code == exit_code
    assert shown.startswith("dist_ft: ") and message in shown


@pytest.mark.jobs
def test_a_closed_pipe_ends_the_command_silently(tiny, tmp_path):
    flags = [*TINY, "--data", str(tiny), "--out", str(tmp_path / "run"), "--log-every", "1"]
    line = f"{shlex.join([sys.executable, '-m', 'dist_ft.train', *flags])} | head -1"
    ended = run_command(["bash", "-o", "pipefail", "-c", line], 60)
    assert ended.status == 1
    assert len(ended.output.splitlines()) == 1, ended.output


def test_help_does_not_import_mxnet():
    code = (
        "import sys, runpy; sys.argv = ['train', '--help']\n"
        "try: runpy.run_module('dist_ft.train', run_name='__main__')\n"
        "except SystemExit: print('IMPORTED', 'mxnet' in sys.modules, 'numpy' in sys.modules)"
    )
    ended = run_job(["-c", code], 30)
    assert "--batch-size" in ended.output
    assert "IMPORTED False False" in ended.output
