"""board: what a person sees, read back from the files themselves."""

import io
import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams

from dist_ft.data.dataset import Dataset, Split
from dist_ft.data.decoding import BLANK
from dist_ft.data.transforms import InputSpec
from dist_ft.evaluation.evaluator import Scores
from dist_ft.evaluation.observer import Evidence
from dist_ft.evaluation.precision_recall import Thresholds
from dist_ft.evaluation.predictions import Prediction
from dist_ft.tracking import figures
from dist_ft.tracking.projector import Cloud
from dist_ft.tracking.run_logger import NullLogger, RunLogger
from dist_ft.training.step_timing import Account
from tests.conftest import REPO

CLASSES = ["crème brûlée", "$x_{$", "two words"]
CONFIG = {"lr": 0.1, "model": "resnet34_v2", "freeze": ("a",), "warmup_epochs": None}
NO_CLOUD = Cloud([], np.zeros((0, 48, 48, 3), np.uint8))
EVERYTHING = {"scalars": 0, "images": 0, "tensors": 0}


def scores(correct, num_classes=3):
    confusion = np.eye(num_classes, dtype=np.int64) * correct
    confusion[0, 1] = 4
    num_images = int(confusion.sum())
    return Scores(num_images, correct * num_classes, num_images - 1, 0.5 * num_images, confusion)


def evidence(num_classes=3, worst=()):
    return Evidence(Thresholds(num_classes), list(worst))


def a_board(run, config=CONFIG, classes=CLASSES, step=0, every=0):
    """Of a data set whose images cannot be read."""
    split = Split(run, ("a/1.jpg", "a/2.jpg"), (0, 0), ())
    folder = Dataset(tuple(classes), split, split)
    return RunLogger(run, config, folder, InputSpec(16, 18, False), step, every)


def sums(images):
    return SimpleNamespace(loss_sum=2.0 * images, correct=images // 2, num_images=images)


def events_of(run):
    events = EventAccumulator(str(run / "tensorboard"), size_guidance=EVERYTHING)
    events.Reload()
    return events


def run_two_epochs(run, step=0, config=CONFIG):
    board = a_board(run, config, step=step, every=1)
    if step == 0:
        board.batch(picture_batch(5), step)
    for epoch in (step // 4, step // 4 + 1):
        board.start_epoch(epoch, range(4 * epoch, 4 * epoch + 4), sums(0), 0.0)
        for number in (2, 4):
            board.step()
            board.curves(4 * epoch + number, f"epoch {epoch + 1}", sums(10 * number), 0.25, 0.0)
        train = {"loss": 1.5 - epoch, "accuracy": 0.5 + epoch / 8}
        board.end_epoch(epoch, 4 * epoch + 4, train, scores(10 + epoch), evidence(), 7.04)
    board.end_run(NO_CLOUD)
    board.close()


def picture_batch(num, side=16):
    """Images of one colour each."""
    return np.broadcast_to(
        np.arange(10, 10 + num, dtype=np.uint8)[:, None, None, None], (num, side, side, 3)
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("board") / "run"
    run_two_epochs(run)
    return run


@pytest.fixture(scope="module")
def events(run):
    return events_of(run)


def image_in(event):
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB"))


def test_tensorboard_has_the_curves_at_their_steps(events):
    points = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    assert [point.step for point in points["train/loss"]] == [2, 4, 6, 8]
    assert [point.value for point in points["train/loss"]] == pytest.approx([2.0] * 4)
    assert [point.value for point in points["train/accuracy"]] == pytest.approx([0.5] * 4)
    assert [point.value for point in points["train/lr"]] == pytest.approx([0.25] * 4)
    assert all(point.value > 0 for point in points["speed/images_per_s"])
    assert [point.value for point in points["speed/data_wait_share"]] == [0] * 4
    assert [(p.step, round(p.value, 4)) for p in points["test/loss"]] == [(4, 0.5), (8, 0.5)]
    assert [point.step for point in points["test/accuracy"]] == [4, 8]
    assert [p.value for p in points["test/accuracy"]] == pytest.approx([30 / 34, 33 / 37])


def test_tensorboard_shows_a_batch_as_the_network_sees_it(events):
    (event,) = events.Images("batch")
    grid = image_in(event)
    assert (event.step, grid.shape) == (0, (4 * 16, 8 * 16, 3))
    for number in range(5):
        assert (grid[:16, 16 * number : 16 * number + 16] == 10 + number).all()
    assert (grid[16:] == 255).all() and (grid[:16, 80:] == 255).all()


def test_tensorboard_shows_the_confusion_after_each_epoch(events):
    pictures = events.Images("confusion")
    assert [event.step for event in pictures] == [4, 8]
    assert all(len(np.unique(image_in(event))) > 20 for event in pictures)


def test_a_mistake_of_an_image_that_is_gone_is_shown_blank(tmp_path):
    board = a_board(tmp_path)
    worst = [Prediction(1, 0, 1, 0.75, 0.125)]
    board.end_epoch(0, 1, {"loss": 1.0, "accuracy": 0.5}, scores(3), evidence(3, worst), 1.0)
    board.close()
    (event,) = events_of(tmp_path).Images("mistakes")
    assert (image_in(event) == BLANK).all(axis=2).mean() > 0.1


def test_pictures_are_made_of_each_epoch_that_is_asked_for_and_of_the_last(tmp_path):
    """Else their share of the time bounds them: the second of these epochs comes too soon."""
    for every, steps in ((0, [1, 5]), (2, [2, 4, 5]), (7, [5])):
        board = a_board(tmp_path / str(every), every=every)
        for epoch in range(5):
            train = {"loss": 1.0, "accuracy": 0.5}
            board.end_epoch(epoch, epoch + 1, train, scores(3), evidence(), 1.0)
        board.draw()
        board.close()
        events = events_of(tmp_path / str(every))
        assert [event.step for event in events.Images("confusion")] == steps
        tag = "precision_recall/two words"
        assert [event.step for event in events.Tensors(tag)] == steps


def test_tensorboard_has_the_settings_and_the_result(run, events):
    (text,) = events.Tensors("config/text_summary")
    told = text.tensor_proto.string_val[0].decode()
    assert "| model | resnet34_v2 |" in told
    assert [p.value for p in events.Scalars("best/test_accuracy")] == pytest.approx(
        [30 / 34, 33 / 37]
    )


def row_of_hparams(events):
    return {
        name: getattr(value, value.WhichOneof("kind"))
        for name, value in hparams.parse_session_start_info_plugin_data(
            events.PluginTagToContent("hparams")[hparams.SESSION_START_INFO_TAG]
        ).hparams.items()
    }


def test_the_table_of_runs_has_the_main_settings_and_those_that_are_not_the_default(events):
    told = row_of_hparams(events)
    assert (told["lr"], told["model"], told["freeze"]) == (0.1, "resnet34_v2", "a")
    assert told["batch_size"] == 200 and "patience" not in told
    tags = events.PluginTagToContent("hparams")
    assert hparams.SESSION_END_INFO_TAG in tags
    assert hparams.EXPERIMENT_TAG not in tags  # its columns would be taken for those of all runs


def rows_of(run):
    return [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]


def test_scores_jsonl_has_a_row_for_each_epoch(run):
    rows = rows_of(run)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[1] == {
        **{"epoch": 2, "step": 8, "train_loss": 0.5, "train_accuracy": 0.625, "test_loss": 0.5},
        **{"test_accuracy": 33 / 37, "test_correct": 33, "test_images": 37, "elapsed_s": 7.04},
        "confusion": [[11, 4, 0], [0, 11, 0], [0, 0, 11]],
    }


def test_the_top_five_are_told_where_there_are_more_than_five_classes(tmp_path):
    board = a_board(tmp_path, {}, [str(number) for number in range(6)])
    board.start_epoch(0, range(1), sums(0), 0.0)
    board.end_epoch(0, 1, {"loss": 1.0, "accuracy": 0.5}, scores(3, 6), evidence(6), 1.0)
    board.close()
    assert rows_of(tmp_path)[0]["test_accuracy_top5"] == 21 / 22


def test_the_ranks_of_a_job_are_compared(tmp_path):
    board = a_board(tmp_path, {}, CLASSES)
    board.start_epoch(0, range(1), sums(0), 0.0)
    ranks = [Account(r, "host", 4, 8.0, 1.0, (r + 1) * 2.0, 0.0) for r in range(3)]
    board.end_epoch(0, 4, {"loss": 1.0, "accuracy": 0.5}, scores(3), evidence(), 1.0, ranks)
    board.close()
    assert rows_of(tmp_path)[0]["ranks"] == [
        {"rank": 0, "host": "host", "step_s": 0.5, "data_s": 1.0, "rest_s": 1.0, "others_s": 6.0},
        {"rank": 1, "host": "host", "step_s": 1.0, "data_s": 1.0, "rest_s": 3.0, "others_s": 4.0},
        {"rank": 2, "host": "host", "step_s": 1.5, "data_s": 1.0, "rest_s": 5.0, "others_s": 2.0},
    ]
    events = events_of(tmp_path)
    names = "slowest_step_ms", "median_step_ms", "spread"
    told = [events.Scalars(f"ranks/{name}")[0].value for name in names]
    assert told == [1500.0, 1000.0, 1.0]


def test_config_json_has_the_settings(run):
    expected = {**CONFIG, "freeze": ["a"]}
    assert json.loads((run / "config.json").read_text()) == expected


def test_curves_png_is_a_picture_with_both_colours(run):
    with Image.open(run / "curves.png") as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for colour in (figures.TRAIN, figures.TEST):
        rgb = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
        assert (abs(pixels.astype(int) - rgb).max(axis=1) < 3).sum() > 50


def test_nothing_half_written_is_left(run):
    assert sorted(path.name for path in run.iterdir()) == [
        *("config.json", "curves.png", "scores.jsonl", "tensorboard"),
    ]


def test_the_epochs_line_is_the_originals(tmp_path, capsys):
    run_two_epochs(tmp_path / "run")
    printed = capsys.readouterr().out
    line = "epoch 1, loss 1.5000, train acc 0.500, test acc 0.882, time 7.0 sec"
    assert line in printed.splitlines()
    assert "epoch 1, loss 2.0000, " in printed and "images/s" in printed


def test_a_resumed_run_keeps_the_rows_and_points_up_to_its_step(tmp_path):
    """The last row may be cut, by a kill or a full disk."""
    run_two_epochs(tmp_path)
    with open(tmp_path / "scores.jsonl", "a") as file:
        file.write('{"epoch": 3, "st')
    time.sleep(1.1)  # a file of events is called after the second in which it was begun
    run_two_epochs(tmp_path, step=4)
    assert [row["epoch"] for row in rows_of(tmp_path)] == [1, 2, 3]
    points = events_of(tmp_path).Scalars("test/accuracy")
    assert [point.step for point in points] == [4, 8, 12]


def test_a_run_begun_anew_has_no_old_rows_and_points(tmp_path):
    run_two_epochs(tmp_path)
    time.sleep(1.1)
    run_two_epochs(tmp_path)
    assert [row["epoch"] for row in rows_of(tmp_path)] == [1, 2]
    events = events_of(tmp_path)
    assert [point.step for point in events.Scalars("train/loss")] == [2, 4, 6, 8]
    assert len(events.Images("batch")) == 1


def test_bad_images_are_named_once_and_five_at_a_time(tmp_path, capsys):
    board = a_board(tmp_path)
    reasons = {f"a/{number}.jpg": f"a/{number}.jpg: broken" for number in range(8)}
    board.bad_images(reasons)
    board.bad_images(reasons)
    board.bad_images({**reasons, "b/new.jpg": "b/new.jpg: empty"})
    board.close()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("left out 8 unreadable images: a/0.jpg: broken; a/1.jpg")
    assert first.endswith("a/4.jpg: broken and 3 more")
    assert second == "left out 1 unreadable images: b/new.jpg: empty"


def test_names_that_the_terminal_cannot_show_end_no_run(tmp_path):
    code = (
        "import os; from pathlib import Path; from tests.test_board import a_board, evidence\n"
        "name = os.fsdecode(b'caf\\xe9')\n"
        f"run = Path({str(tmp_path)!r})\n"
        "board = a_board(run, {'data': name}, [name, 'crème', '麻婆豆腐'])\n"
        "board.bad_images({name: name + ' ü: broken'})\n"
        "import numpy as np; from dist_ft.evaluate import Scores\n"
        "scores = Scores(3, 3, 3, 1.0, np.eye(3, dtype=np.int64))\n"
        "board.end_epoch(0, 1, {'loss': 1.0, 'accuracy': 0.5}, scores, evidence(), 1.0)\n"
        "board.close()\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(REPO), "PYTHONIOENCODING": "ascii"}
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environ)
    assert made.returncode == 0, made.stderr.decode()
    assert b"left out 1 unreadable images: caf\\udce9 \\xfc: broken" in made.stdout


def test_confusion_of_many_classes_is_drawn_without_names(tmp_path):
    for num_classes in (2, 25, 101):
        counts = np.eye(num_classes, dtype=np.int64)
        figures.confusion(counts, [f"class {n}" for n in range(num_classes)]).savefig(
            tmp_path / "picture.png", dpi=50
        )
        with Image.open(tmp_path / "picture.png") as picture:
            assert picture.size[0] == picture.size[1] <= 50 * 26


def test_the_board_of_other_ranks_shows_nothing(capsys):
    board = NullLogger()
    board.say("word")
    board.end_epoch(0, 1, {}, None, None, 2.0)
    board.close()
    assert capsys.readouterr().out == ""
