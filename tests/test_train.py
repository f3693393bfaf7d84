"""A training run in one process: exact to the byte when it is stopped, and honest when it fails."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_ft import cli, train
from dist_ft.config import Config
from dist_ft.distributed.world import World
from dist_ft.errors import CollectiveError, UserError
from dist_ft.inference import trained_model
from dist_ft.models import zoo
from dist_ft.training import checkpoint, gradients, resume
from dist_ft.training.run import Run
from dist_ft.training.step_sync import stop_requests
from tests.conftest import ENVIRONMENT, REPO, TINY, run_command, run_job


@pytest.fixture(scope="module")
def world():
    solo = World(device="cpu", stall_timeout_s=600)
    yield solo
    solo.close()


@pytest.fixture(scope="module")
def config(tiny):
    return Config(
        data=str(tiny),
        model="mobilenet0.25",
        weights="none",
        image_size=32,
        batch_size=24,
        lr=0.05,
        epochs=2,
        num_workers=2,
    )


def contents(run):
    """The bytes of a run's last checkpoint, parameters and optimizer."""
    found = checkpoint.latest(run)
    arrays = {**found.net_arrays(), **found.trainer_arrays()}
    return {name: array.asnumpy().tobytes() for name, array in arrays.items()}


def rows(run):
    kept = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
    timings = ("elapsed_s", "images_per_s", "data_wait_share")
    return [{k: v for k, v in row.items() if k not in timings} for row in kept]


def stop_at(monkeypatch, step, signum=signal.SIGTERM):
    exchange = Run.begin_step

    def stopping(self, now, batch, stop):
        if now == step:
            os.kill(os.getpid(), signum)
        return exchange(self, now, batch, stop)

    monkeypatch.setattr(Run, "begin_step", stopping)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_run_stopped_at_any_step_ends_as_if_it_had_not(
    config, world, tmp_path, monkeypatch, optimizer
):
    momentum = 0.9 if optimizer == "sgd" else 0.0
    config = replace(config, optimizer=optimizer, momentum=momentum, lr=0.01)
    whole = tmp_path / "whole"
    train.fit(replace(config, out=str(whole)), world)
    for step in range(6):
        out = tmp_path / f"stopped-at-{step}"
        with monkeypatch.context() as patch, pytest.raises(CollectiveError) as stopped:
            stop_at(patch, step)
            train.fit(replace(config, out=str(out)), world)
        assert stopped.value.exit_code == 143
        assert checkpoint.latest(out).step == step
        train.fit(replace(config, out=str(out)), world)
        assert contents(out) == contents(whole), f"stopped before step {step}"
        assert rows(out) == rows(whole)


def test_a_stop_at_the_end_of_the_best_epoch_keeps_the_best_network(
    config, world, tmp_path, monkeypatch
):
    """With one checkpoint kept besides the best, which two more epochs would sweep away."""
    config = replace(config, out=str(tmp_path), epochs=4, lr=0.0, keep=1)  # the first is the best
    with monkeypatch.context() as patch, pytest.raises(CollectiveError):
        stop_at(patch, 3)
        train.fit(config, world)
    for _ in range(2):
        assert checkpoint.best(tmp_path).step == 3
        with monkeypatch.context() as patch, pytest.raises(CollectiveError):
            stop_at(patch, checkpoint.latest(tmp_path).step)  # before a step is made
            train.fit(config, world)
    run = train.fit(config, world)
    best = checkpoint.best(tmp_path)
    assert (best.step, best.accuracy) == (3, run.best_accuracy)
    assert trained_model.load(tmp_path).step == 3


def test_a_network_with_dropout_ends_as_if_it_had_not_been_stopped(config, world, tmp_path):
    config = replace(config, model="vgg11", lr=0.001, epochs=1)
    train.fit(replace(config, out=str(tmp_path / "whole")), world)
    mx.random.seed(5)  # whatever was drawn before
    for steps in (1, 0):
        train.fit(replace(config, out=str(tmp_path / "parts"), max_steps=steps), world)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_head_on_features_that_are_not_flat_learns(config, world, tmp_path):
    """gluon's first ResNets end their features with a mean of 1 x 1."""
    frozen = replace(config, model="resnet18_v1", backbone_lr_mult=0.0, epochs=1)
    assert train.fit(replace(frozen, out=str(tmp_path)), world).step == 3


def test_two_runs_do_not_write_to_one_folder(config, world, tmp_path, tiny):
    claim = resume.RunLock(tmp_path)
    ended = run_job(["-m", "dist_ft.train", *TINY, "--data", str(tiny), "--out", str(tmp_path)], 60)
    assert ended.status == 1
    assert f"--out {tmp_path}: another run is writing there" in ended.output
    assert os.listdir(tmp_path) == []
    claim.give_up()
    train.fit(replace(config, out=str(tmp_path), epochs=1), world)
    with pytest.raises(CollectiveError), pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 4)
        train.fit(replace(config, out=str(tmp_path)), world)
    resume.RunLock(tmp_path).give_up()  # a run that has ended, however it did, holds nothing


def test_a_reader_that_has_seen_enough_is_not_taken_for_a_full_disk(tiny, tmp_path):
    words = [*TINY, "--data", str(tiny), "--out", str(tmp_path / "run"), "--log-every", "1"]
    line = f"{shlex.join([sys.executable, '-m', 'dist_ft.train', *words])} | head -1"
    ended = run_command(["bash", "-o", "pipefail", "-c", line], 60)
    assert ended.status == 1
    assert len(ended.output.splitlines()) == 1, ended.output


def test_the_same_settings_give_the_same_bytes_for_any_number_of_workers(config, world, tmp_path):
    for workers in (1, 5):
        out = str(tmp_path / str(workers))
        train.fit(replace(config, out=out, num_workers=workers, epochs=1), world)
    assert contents(tmp_path / "1") == contents(tmp_path / "5")


def test_another_seed_gives_another_run(config, world, tmp_path):
    for seed in (0, 1):
        train.fit(replace(config, out=str(tmp_path / str(seed)), seed=seed, epochs=1), world)
    assert contents(tmp_path / "0") != contents(tmp_path / "1")


def test_a_finished_run_has_nothing_left_to_do(config, world, tmp_path, capsys):
    cli.configure_logging()
    config = replace(config, out=str(tmp_path), epochs=1)
    train.fit(config, world)
    before = contents(tmp_path)
    run = train.fit(config, world)
    assert run.step == 3
    assert contents(tmp_path) == before
    assert len(rows(tmp_path)) == 1
    assert "has made all of 3 steps already; --epochs" in capsys.readouterr().out


def test_more_epochs_go_on_where_the_run_ended(config, world, tmp_path):
    train.fit(replace(config, out=str(tmp_path / "two")), world)
    for epochs in (1, 2):
        train.fit(replace(config, out=str(tmp_path / "one"), epochs=epochs), world)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_other_settings_do_not_go_on_with_a_run(config, world, tmp_path):
    train.fit(replace(config, out=str(tmp_path), epochs=1), world)
    with pytest.raises(UserError, match=r"--wd: 0\.5 instead of 0\.001") as refused:
        train.fit(replace(config, out=str(tmp_path), wd=0.5), world)
    assert "--resume never" in str(refused.value)


def test_a_new_run_sets_the_old_one_aside(config, world, tmp_path):
    config = replace(config, out=str(tmp_path / "run"), epochs=1)
    train.fit(config, world)
    old = contents(tmp_path / "run")
    train.fit(replace(config, resume="never", seed=3), world)
    assert contents(tmp_path / "run.1") == old
    assert contents(tmp_path / "run") != old


def test_another_runs_folder_can_be_gone_on_with(config, world, tmp_path):
    train.fit(replace(config, out=str(tmp_path / "a")), world)
    train.fit(replace(config, out=str(tmp_path / "b"), max_steps=2), world)
    flags = {"out": str(tmp_path / "c"), "resume": str(tmp_path / "b")}
    train.fit(replace(config, **flags), world)
    assert contents(tmp_path / "c") == contents(tmp_path / "a")
    with pytest.raises(UserError, match="no whole checkpoint"):
        train.fit(replace(config, out=str(tmp_path / "d"), resume=str(tmp_path / "e")), world)


def test_the_command_that_goes_on_with_another_run_goes_on_with_its_own(config, world, tmp_path):
    train.fit(replace(config, out=str(tmp_path / "a"), max_steps=2), world)
    again = replace(config, out=str(tmp_path / "b"), resume=str(tmp_path / "a"))
    train.fit(replace(again, max_steps=4), world)
    shutil.rmtree(tmp_path / "a")
    assert train.fit(again, world).step == 6
    with pytest.raises(UserError, match="is a run of other settings"):
        train.fit(replace(again, wd=0.5), world)


def test_the_last_whole_checkpoint_is_gone_on_from(config, world, tmp_path):
    train.fit(replace(config, out=str(tmp_path)), world)
    whole = contents(tmp_path)
    last = checkpoint.latest(tmp_path).path
    (last / "net.params").write_bytes((last / "net.params").read_bytes()[:-1])
    run = train.fit(replace(config, out=str(tmp_path)), world)
    assert run.step == 6
    assert contents(tmp_path) == whole


def test_patience_ends_a_run_that_no_longer_gets_better(config, world, tmp_path):
    still = replace(config, out=str(tmp_path), lr=0.0, epochs=9, patience=2)
    run = train.fit(still, world)
    assert run.step == 3 * 3  # the first epoch is the best, then two more
    assert train.fit(still, world).step == 9


def test_a_small_net_learns_the_stripes(config, world, tmp_path):
    recipe = {"epochs": 12, "batch_size": 8, "momentum": 0.9, "head_lr_mult": 1.0}
    run = train.fit(replace(config, out=str(tmp_path), **recipe), world)
    assert run.best_accuracy > 0.5  # five classes: chance is 0.2


def test_a_loss_that_is_not_finite_stops_the_run(config, world, tmp_path):
    with pytest.raises(CollectiveError, match=r"step \d is not finite on rank 0 of 1"):
        train.fit(replace(config, out=str(tmp_path), lr=1e30), world)
    assert checkpoint.latest(tmp_path) is None


def test_too_many_unreadable_images_stop_the_run(config, world, tmp_path, tiny):
    shutil.copytree(tiny, tmp_path / "data")
    for path in list((tmp_path / "data/train/class_a").iterdir())[:2]:
        path.write_bytes(path.read_bytes()[:40])
    broken = replace(config, data=str(tmp_path / "data"), out=str(tmp_path / "run"))
    with pytest.raises(
        CollectiveError, match=r"of 53 images .* cannot be read, .* --max-bad-share 0.01"
    ):
        train.fit(broken, world)
    train.fit(replace(broken, max_bad_share=0.05), world)


def test_a_test_image_that_is_a_training_image_too_stops_the_run_unless_it_may(
    config, world, tmp_path, capsys
):
    shutil.copytree(config.data, tmp_path / "data")
    source = next((tmp_path / "data" / "train" / "class_b").iterdir())
    shutil.copy(source, tmp_path / "data" / "test" / "class_b" / "copy.jpg")
    leaky = replace(config, data=str(tmp_path / "data"), out=str(tmp_path / "run"), max_steps=1)
    with pytest.raises(UserError) as caught:
        train.fit(leaky, world)
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith("1 of the test images are training images too")
    assert f"test/class_b/copy.jpg is {source}" in str(caught.value)
    assert "--allow-leak" in str(caught.value)
    assert not (tmp_path / "run").exists()
    train.fit(replace(leaky, allow_leak=True), world)
    assert "training images too" not in capsys.readouterr().out


@pytest.mark.parametrize("clip_norm", [0.0, 0.01])
def test_rows_with_a_mask_of_0_change_nothing_whatever_is_in_them(clip_norm):
    after = []
    for garbage in (0, 255):
        pixels = np.random.RandomState(0).randint(0, 256, (6, 8, 8, 3)).astype(np.uint8)
        pixels[4:] = garbage
        with mx.name.NameManager():
            net = mx.gluon.nn.HybridSequential()
            net.add(mx.gluon.nn.Flatten(), mx.gluon.nn.Dense(3))
        net.initialize(mx.init.One())
        trainer = mx.gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1})
        x, labels = mx.nd.array(pixels, dtype="uint8"), mx.nd.array([0, 1, 2, 0, 1, 1])
        mask = mx.nd.array([1, 1, 1, 1, 0, 0])
        net = zoo.with_normalization(net)
        sums = train.train_step(net, trainer, (x, labels, mask), 4, clip_norm=clip_norm)
        after.append([net[1][1].weight.data().asnumpy(), sums.asnumpy()])
    np.testing.assert_array_equal(after[0][0], after[1][0])
    np.testing.assert_array_equal(after[0][1], after[1][1])
    assert (after[0][0] != 1).any()


def test_cross_entropy_is_gluons():
    logits, labels = mx.nd.random.normal(shape=(7, 5)), mx.nd.array([0, 1, 2, 3, 4, 0, 1])
    theirs = mx.gluon.loss.SoftmaxCrossEntropyLoss()(logits, labels).asnumpy()
    np.testing.assert_allclose(gradients.cross_entropy(logits, labels).asnumpy(), theirs, rtol=1e-6)
    smooth = mx.nd.one_hot(labels, 5) * 0.9 + 0.1 / 5
    theirs = mx.gluon.loss.SoftmaxCrossEntropyLoss(sparse_label=False)(logits, smooth).asnumpy()
    ours = gradients.cross_entropy(logits, labels, 0.1).asnumpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_the_loop_reads_nothing_of_the_device_but_steps_two_before(
    config, world, tmp_path, monkeypatch
):
    """Counted at the calls by which MXNet's arrays reach the host, over an epoch of 14 steps."""
    ages, others, sums_of = [], [], []
    train_step, asnumpy, end_epoch = train.train_step, mx.nd.NDArray.asnumpy, Run.end_epoch

    def counted_step(*args):
        sums_of.append(train_step(*args))
        return sums_of[-1]

    def counted_read(array):
        step = next((k for k, sums in enumerate(sums_of) if sums is array), None)
        others.append(array.shape) if step is None else ages.append(len(sums_of) - 1 - step)
        return asnumpy(array)

    def counted_until_here(run, epoch):
        monkeypatch.undo()  # the end of an epoch may wait
        return end_epoch(run, epoch)

    def start_counting(run, epoch, steps):
        monkeypatch.setattr(mx.nd.NDArray, "asnumpy", counted_read)
        for name in ("wait_to_read", "asscalar"):
            monkeypatch.setattr(mx.nd.NDArray, name, lambda array: others.append(array.shape))
        monkeypatch.setattr(mx.nd, "waitall", lambda: others.append("all"))
        return train_batches(run, epoch, steps)

    train_batches = Run.train_batches
    monkeypatch.setattr(Run, "train_batches", start_counting)
    monkeypatch.setattr(Run, "end_epoch", counted_until_here)
    monkeypatch.setattr(train, "train_step", counted_step)
    train.fit(replace(config, out=str(tmp_path), batch_size=4, epochs=1), world)
    assert ages == [2] * 12
    assert others == []


def asked_to_stop(tiny, out, signum):
    """A run in a process of its own that gets a signal when it has begun to step."""
    words = [sys.executable, "-u", "-m", "dist_ft.train", "--data", str(tiny), "--out", str(out)]
    flags = [*TINY, "--epochs", "1000", "--log-every", "1"]
    process = subprocess.Popen(
        [*words, *flags], cwd=REPO, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=-2
    )
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "epoch 2, loss" in line:
            process.send_signal(signum)
    return process.wait(timeout=60), "".join(seen)


@pytest.mark.parametrize(
    "signum, expected",
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75), (signal.SIGHUP, 129)],
)
def test_a_signal_ends_the_process_after_a_checkpoint(tiny, tmp_path, signum, expected):
    status, output = asked_to_stop(tiny, tmp_path, signum)
    assert status == expected
    assert f"stopped by {signal.Signals(signum).name}" in output
    step = int(re.search(r"before step (\d+); saved as", output).group(1))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Scalars("test/accuracy")[-1].step == step // 3 * 3  # of the last whole epoch
    assert checkpoint.latest(tmp_path).step == step
    assert "Traceback" not in output


BAD_COMMANDS = {
    "no such folder": (["--data", "nowhere"], 1),
    "unknown network; similar names: resnet34_v2": (["--model", "resnet34v2"], 1),
    "no such file": (["--weights", "nowhere.params"], 1),
    "matches no parameter": (["--freeze", "no_such_layer"], 1),
    "does not accept this size": (["--image-size", "8", "--model", "alexnet"], 1),
    "sees no GPU": (["--device", "gpu"], 1),
    "these settings cannot be used": (["--lr", "-1"], 2),
}


@pytest.mark.parametrize("words", BAD_COMMANDS)
def test_a_bad_command_gets_its_remedy_and_no_traceback(tiny, tmp_path, words):
    flags, status = BAD_COMMANDS[words]
    out = ["--data", str(tiny), "--out", str(tmp_path / "run")]
    ended = run_job(["-m", "dist_ft.train", *out, *TINY, *flags], 60)
    assert ended.status == status, ended.output
    assert words in ended.output
    assert "Traceback" not in ended.output


def test_a_folder_that_cannot_be_written_gets_its_remedy(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    out = ["--data", str(tiny), "--out", str(tmp_path / "file" / "run")]
    ended = run_job(["-m", "dist_ft.train", *out, *TINY], 60)
    assert ended.status == 1
    assert "choose another --out" in ended.output
    assert "Traceback" not in ended.output


def test_a_disk_that_fills_up_gets_its_remedy_and_keeps_the_last_checkpoint(tiny, tmp_path):
    """4 MB hold the first epoch's checkpoint of 1 MB, and not what is put beside it meanwhile."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk takes the right to mount one")
    try:
        flags = ["--data", str(tiny), "--out", str(disk / "run"), *TINY]
        assert run_job(["-m", "dist_ft.train", *flags], 60).status == 0
        kept = contents(disk / "run")
        (disk / "filler").write_bytes(b"x" * (shutil.disk_usage(disk).free - 8192))
        ended = run_job(["-m", "dist_ft.train", *flags, "--epochs", "2"], 60)
        assert ended.status == 1
        assert "choose another --out" in ended.output.splitlines()[-1]
        assert contents(disk / "run") == kept
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_up_between_checkpoints_does_not_leave_the_run_waiting(
    config, world, tmp_path, monkeypatch
):
    """What writes TensorBoard's files ends on a full disk, and its queue would fill up for ever."""
    run = Run(replace(config, out=str(tmp_path), batch_size=4, log_every=1), world)
    writer = run.logger._writer.file_writer.event_writer._worker
    writer.stop()
    writer.join()
    with pytest.raises(UserError, match="choose another --out"), stop_requests() as stop:
        for step, batch in zip(range(14), run.train_batches(0, range(14))):
            num_images = run.begin_step(step, batch, stop)
            sums = train.train_step(run.net, run.trainer, batch.on(world.ctx), num_images)
            run.end_step(step, sums, batch.num_images)


def test_help_answers_before_mxnet_is_loaded():
    code = (
        "import sys, runpy; sys.argv = ['train', '--help']\n"
        "try: runpy.run_module('dist_ft.train', run_name='__main__')\n"
        "except SystemExit: print('LOADED', 'mxnet' in sys.modules, 'numpy' in sys.modules)"
    )
    ended = run_job(["-c", code], 30)
    assert "--batch-size" in ended.output
    assert "LOADED False False" in ended.output
