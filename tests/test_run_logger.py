"""What RunLogger writes, read back from its files."""

import io
import json
import os
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageColor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams

from dist_ft import cli
from dist_ft.data.dataset import Dataset, Split
from dist_ft.data.image import BLANK
from dist_ft.data.transforms import InputSpec
from dist_ft.errors import UserError
from dist_ft.evaluation.evaluator import Evaluation
from dist_ft.evaluation.metrics import FeatureSample, PrecisionRecall, Scores
from dist_ft.evaluation.predictions import COLUMNS, Predictions
from dist_ft.tracking import figures
from dist_ft.tracking.epoch_scores import EpochScores, RankTimes
from dist_ft.tracking.run_logger import RunLogger

CLASSES = ["crème brûlée", "$x_{$", "two words"]
SETTINGS = {"lr": 0.1, "model": "resnet34_v2", "freeze": ("a",), "warmup_epochs": None}
TRAIN = {"loss": 1.5, "accuracy": 0.5}
ALL_EVENTS = {"scalars": 0, "images": 0, "tensors": 0}


def evaluation_of(correct_per_class, num_classes=3, mistakes=()):
    """An evaluation with four images of class 0 predicted as class 1."""
    confusion = np.eye(num_classes, dtype=np.int64) * correct_per_class
    confusion[0, 1] = 4
    num_images = int(confusion.sum())
    correct = correct_per_class * num_classes
    scores = Scores(num_images, correct, num_images - 1, 0.5 * num_images, confusion)
    predictions = Predictions()
    predictions.table = np.array(list(mistakes), COLUMNS)
    return Evaluation(scores, predictions, PrecisionRecall(num_classes), FeatureSample(0))


def open_logger(run, settings=SETTINGS, classes=CLASSES, step=0, figures_every=0):
    """A logger for a data set whose image files do not exist."""
    split = Split(run, ("a/1.jpg", "a/2.jpg"), (0, 0), ())
    dataset = Dataset(tuple(classes), split, split)
    return RunLogger(run, settings, dataset, InputSpec(16, 18, False), step, figures_every)


def log_epoch(run, evaluation, ranks=(), **options):
    """Logs one epoch; returns its row in scores.jsonl."""
    logger = open_logger(run, **options)
    logger.end_epoch(0, 4, TRAIN, evaluation, 1.0, ranks)
    logger.close()
    return read_rows(run)[0]


def sums_of(images):
    return SimpleNamespace(loss_sum=2.0 * images, correct=images // 2, num_images=images)


def log_two_epochs(run, step=0, figures=False):
    logger = open_logger(run, step=step, figures_every=1 if figures else 100)
    if step == 0:
        values = np.arange(10, 15, dtype=np.uint8)[:, None, None, None]  # one for each image
        logger.log_batch(np.broadcast_to(values, (5, 16, 16, 3)), step)
    for epoch in (step // 4, step // 4 + 1):
        logger.start_epoch(epoch, range(4 * epoch, 4 * epoch + 4), sums_of(0), 0.0)
        for number in (2, 4):
            logger.step()
            position = f"epoch {epoch + 1}"
            logger.log_steps(4 * epoch + number, position, sums_of(10 * number), 0.25, 0.0)
        train = {"loss": 1.5 - epoch, "accuracy": 0.5 + epoch / 8}
        logger.end_epoch(epoch, 4 * epoch + 4, train, evaluation_of(10 + epoch), 7.04)
    if figures:
        logger.end_run(None)
    logger.close()


def read_events(run):
    events = EventAccumulator(str(run / "tensorboard"), size_guidance=ALL_EVENTS)
    events.Reload()
    return events


def read_rows(run):
    return [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]


def pixels_of(event):
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB"))


@pytest.fixture(autouse=True)
def console():
    cli.configure_logging()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("logger") / "run"
    log_two_epochs(run, figures=True)
    return run


@pytest.fixture(scope="module")
def events(run):
    return read_events(run)


def test_tensorboard_has_the_scalars_at_their_steps(events):
    points = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    speed = points.pop("speed/images_per_s")
    assert [point.step for point in speed] == [2, 4, 6, 8] and min(p.value for p in speed) > 0
    values = {tag: [(p.step, round(p.value, 4)) for p in points[tag]] for tag in points}
    best = [(4, round(30 / 34, 4)), (8, round(33 / 37, 4))]
    assert values == {
        "train/loss": [(step, 2.0) for step in (2, 4, 6, 8)],
        "train/accuracy": [(step, 0.5) for step in (2, 4, 6, 8)],
        "train/lr": [(step, 0.25) for step in (2, 4, 6, 8)],
        "speed/data_wait_share": [(step, 0.0) for step in (2, 4, 6, 8)],
        "test/loss": [(4, 0.5), (8, 0.5)],
        "test/accuracy": best,
        "best/test_accuracy": best,
    }


def test_tensorboard_shows_the_first_batch(events):
    (event,) = events.Images("batch")
    assert event.step == 0
    assert {10, 11, 12, 13, 14} <= set(np.unique(pixels_of(event)))


def test_a_mistake_whose_file_is_gone_is_shown_blank(tmp_path):
    log_epoch(tmp_path, evaluation_of(3, mistakes=[(1, 0, 1, 2.0, 0.75, 0.125)]))
    (event,) = read_events(tmp_path).Images("mistakes")
    assert (pixels_of(event) == BLANK).all(axis=2).mean() > 0.1


@pytest.mark.parametrize("every, steps", [(0, [1, 4]), (3, [3, 4]), (7, [4])])
def test_figures_are_drawn_at_the_interval_and_at_the_end(tmp_path, every, steps):
    """With interval 0, the time limit allows only the first of these epochs and the last."""
    logger = open_logger(tmp_path, figures_every=every)
    for epoch in range(4):
        logger.end_epoch(epoch, epoch + 1, TRAIN, evaluation_of(3), 1.0)
    logger.draw_figures()
    logger.close()
    events = read_events(tmp_path)
    assert [event.step for event in events.Images("confusion")] == steps
    tag = "precision_recall/two words"
    assert [event.step for event in events.Tensors(tag)] == steps


def test_tensorboard_and_config_json_have_the_settings(run, events):
    (text,) = events.Tensors("config/text_summary")
    assert "| model | resnet34_v2 |" in text.tensor_proto.string_val[0].decode()
    assert json.loads((run / "config.json").read_text()) == {**SETTINGS, "freeze": ["a"]}


def test_hparams_are_the_main_settings_and_those_that_are_not_the_default(events):
    tags = events.PluginTagToContent("hparams")
    start = hparams.parse_session_start_info_plugin_data(tags[hparams.SESSION_START_INFO_TAG])
    columns = {k: getattr(v, v.WhichOneof("kind")) for k, v in start.hparams.items()}
    assert (columns["lr"], columns["model"], columns["freeze"]) == (0.1, "resnet34_v2", "a")
    assert columns["batch_size"] == 200 and "patience" not in columns
    assert hparams.SESSION_END_INFO_TAG in tags
    assert hparams.EXPERIMENT_TAG not in tags  # TensorBoard would apply it to all runs


def test_scores_jsonl_has_a_row_for_each_epoch(run):
    first, second = read_rows(run)
    assert first["epoch"] == 1
    assert second.pop("images_per_s") > 0
    assert second == {
        **{"epoch": 2, "step": 8, "train_loss": 0.5, "train_accuracy": 0.625, "test_loss": 0.5},
        **{"test_accuracy": 33 / 37, "test_correct": 33, "test_images": 37, "elapsed_s": 7.04},
        **{"confusion": [[11, 4, 0], [0, 11, 0], [0, 0, 11]], "data_wait_share": 0.0},
    }


def test_the_data_wait_of_an_epoch_is_its_share_of_the_steps_time(tmp_path):
    logger = open_logger(tmp_path)
    start = time.perf_counter()
    logger.start_epoch(0, range(2), sums_of(0), 5.0)
    logger.log_steps(1, "", sums_of(10), 0.1, 6.0)
    logger.log_steps(2, "", sums_of(20), 0.1, 9.0)
    longest_s = time.perf_counter() - start
    logger.end_epoch(0, 2, TRAIN, evaluation_of(3), 1.0)
    logger.close()
    (row,) = read_rows(tmp_path)
    assert row["data_wait_share"] >= 4 / longest_s and row["images_per_s"] >= 20 / longest_s
    assert row["data_wait_share"] / row["images_per_s"] == pytest.approx(4 / 20)


def test_top_5_accuracy_is_logged_for_more_than_five_classes(tmp_path):
    row = log_epoch(tmp_path, evaluation_of(3, 6), classes=[str(number) for number in range(6)])
    assert row["test_accuracy_top5"] == 21 / 22


def test_step_times_of_the_ranks_are_compared(tmp_path):
    ranks = [RankTimes(r, "host", (r + 1) / 2, 1.0, 1.0 + 2 * r, 6.0 - 2 * r) for r in range(3)]
    row = log_epoch(tmp_path, evaluation_of(3), ranks)
    assert row["ranks"][2] == {
        **{"rank": 2, "host": "host", "step_s": 1.5},
        **{"data_s": 1.0, "rest_s": 5.0, "others_s": 2.0},
    }
    assert EpochScores.from_json(json.dumps(row)).ranks == tuple(ranks)
    events = read_events(tmp_path)
    names = "slowest_step_ms", "median_step_ms", "spread"
    values = [events.Scalars(f"ranks/{name}")[0].value for name in names]
    assert values == [1500.0, 1000.0, 1.0]


def test_curves_png_shows_train_and_test(run):
    with Image.open(run / "curves.png") as picture:
        colors = {color: num for num, color in picture.convert("RGB").getcolors(2**16)}
    for color in (figures.TRAIN_COLOR, figures.TEST_COLOR):
        assert colors[ImageColor.getrgb(color)] > 50


def test_the_epoch_line_has_its_documented_form(tmp_path, capsys):
    log_two_epochs(tmp_path)
    printed = capsys.readouterr().out
    line = "epoch 1, loss 1.5000, train acc 0.500, test acc 0.882, time 7.0 sec"
    assert line in printed.splitlines()
    assert "epoch 1, loss 2.0000, " in printed and "images/s" in printed


@pytest.mark.parametrize("step, epochs", [(4, [1, 2, 3]), (0, [1, 2])])
def test_a_run_that_resumes_or_starts_over_drops_later_rows_and_points(tmp_path, step, epochs):
    log_two_epochs(tmp_path)
    with open(tmp_path / "scores.jsonl", "a") as file:
        file.write('{"epoch": 3, "st')  # what a kill or a full disk leaves
    time.sleep(1.1)  # event files are named by the second
    log_two_epochs(tmp_path, step)
    assert [row["epoch"] for row in read_rows(tmp_path)] == epochs
    events = read_events(tmp_path)
    assert [point.step for point in events.Scalars("test/accuracy")] == [4 * e for e in epochs]
    assert len(events.Images("batch")) == 1


def test_a_run_does_not_resume_on_scores_of_another_program(tmp_path):
    (tmp_path / "scores.jsonl").write_text('{"epoch": 1, "loss": 0.5}\n')
    with pytest.raises(UserError, match=r"scores\.jsonl: was not written by dist_ft\.train"):
        open_logger(tmp_path, step=4)


def test_bad_images_are_named_once_and_five_at_a_time(tmp_path, capsys):
    logger = open_logger(tmp_path)
    reasons = {f"a/{number}.jpg": f"a/{number}.jpg: broken" for number in range(8)}
    logger.log_bad_images(reasons)
    logger.log_bad_images(reasons)
    logger.log_bad_images({**reasons, "b/new.jpg": "b/new.jpg: empty"})
    logger.close()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("left out 8 unreadable images: a/0.jpg: broken; a/1.jpg")
    assert first.endswith("a/4.jpg: broken and 3 more")
    assert second == "left out 1 unreadable images: b/new.jpg: empty"


@pytest.mark.filterwarnings("ignore:Glyph")  # not in the font of the figures
def test_names_that_the_terminal_cannot_show_are_escaped(tmp_path, monkeypatch):
    name = os.fsdecode(b"caf\xe9")
    stdout = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stdout, encoding="ascii"))
    cli.configure_logging()
    logger = open_logger(tmp_path, {"data": name}, [name, "crème", "麻婆豆腐"])
    logger.log_bad_images({name: name + " ü: broken"})
    logger.end_epoch(0, 1, TRAIN, evaluation_of(3), 1.0)
    logger.close()
    assert b"left out 1 unreadable images: caf\\udce9 \\xfc: broken" in stdout.getvalue()


@pytest.mark.parametrize("num_classes", [2, 25, 101])
def test_a_confusion_matrix_of_any_size_fits_a_figure(num_classes):
    names = [f"class {label}" for label in range(num_classes)]
    figure = figures.confusion(np.eye(num_classes, dtype=np.int64), names)
    figure.savefig(io.BytesIO(), dpi=50)
    width, height = figure.get_size_inches()
    assert width == height <= 26
