"""Reading a run's folder, and the page that is made of it."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_ft import settings_flags
from dist_ft.config import Config
from dist_ft.errors import UserError
from dist_ft.reporting import charts, history, run_report, sections
from dist_ft.reporting.history import RunHistory
from dist_ft.tracking.epoch_scores import EpochScores, RankTimes
from tests.html_page import Page

EPOCH = EpochScores(
    epoch=1,
    step=3,
    train_loss=1.5,
    train_accuracy=0.5,
    loss=1.25,
    accuracy=0.75,
    correct=6,
    images=8,
    elapsed_s=2.0,
    confusion=[[3, 1], [1, 3]],
    images_per_s=100.0,
    data_wait_share=0.25,
)
EPOCHS = [
    EPOCH,
    replace(EPOCH, epoch=2, step=6, images_per_s=300.0, data_wait_share=0.75),
    replace(EPOCH, epoch=3, step=9, accuracy=0.5, images_per_s=None, data_wait_share=None),
]


def write_run(folder, epochs=EPOCHS, **settings):
    folder.mkdir(exist_ok=True)
    config = {**Config().as_dict(), **settings}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "scores.jsonl").write_text("".join(epoch.to_json() + "\n" for epoch in epochs))
    return folder


def test_scores_are_read_as_they_were_written_without_an_incomplete_line(tmp_path):
    with open(write_run(tmp_path) / "scores.jsonl", "a") as file:
        file.write('{"epoch": 4, "st')
    run = history.read(tmp_path)
    assert run.epochs == EPOCHS
    assert run.best == EPOCH  # the earliest of the highest accuracy
    assert (run.images_per_s, run.data_wait_share) == (200.0, 0.5)  # where they were recorded


def test_a_run_of_an_older_version_has_a_page_without_speed(tmp_path):
    epochs = [replace(epoch, images_per_s=None, data_wait_share=None) for epoch in EPOCHS]
    shown = run_report.render(history.read(write_run(tmp_path, epochs)), [], "no images")
    assert "did not record its speed" in shown and "No images are shown: no images" in shown
    assert "the run has no complete checkpoint" in shown  # which has the names of classes
    assert "class 1" in Page(shown).cells


def test_a_run_without_a_complete_epoch_is_rejected(tmp_path):
    with pytest.raises(UserError, match="no epoch is complete"):
        history.read(write_run(tmp_path, epochs=[]))


def changed_row(**changes):
    return json.dumps({**json.loads(EPOCH.to_json()), **changes})


@pytest.mark.parametrize(
    "name, text",
    [
        ("config.json", "[]"),
        ("config.json", '{"architectures": ["Net"]}'),
        ("scores.jsonl", "3"),
        ("scores.jsonl", '{"epoch": 1, "loss": 0.5}'),
        ("scores.jsonl", changed_row(test_accuracy=None)),
        ("scores.jsonl", changed_row(step="3")),
        ("scores.jsonl", changed_row(confusion=[[1, 2], [3]])),
        ("scores.jsonl", changed_row(confusion=[[0.5]])),
        ("scores.jsonl", changed_row(confusion=3)),
    ],
)
def test_files_that_are_damaged_or_of_another_program_are_rejected(tmp_path, name, text):
    (write_run(tmp_path) / name).write_text(text + "\n")
    with pytest.raises(UserError, match=rf"{name}: was not written by dist_ft\.train"):
        history.read(tmp_path)


def test_step_times_of_the_ranks_are_summed_over_epochs(tmp_path):
    first = RankTimes(0, "<b>a", step_s=0.1, data_s=0.0, rest_s=2.0, others_s=6.0)
    second = RankTimes(1, "b", step_s=0.2, data_s=6.0, rest_s=2.0, others_s=0.0)
    epochs = [replace(EPOCH, epoch=n + 1, ranks=(first, second)) for n in range(2)]
    run = history.read(write_run(tmp_path, epochs))
    assert run.rank_times() == [
        RankTimes(0, "<b>a", 0.1, 0, 4, 12),
        RankTimes(1, "b", 0.2, 12, 4, 0),
    ]
    shown = run_report.render(run, [], "none")
    assert shown == run_report.render(run, [], "none")  # ids of charts are not random
    assert "width:75.00%" in shown and "75% others" in shown
    assert {"rank 0 on <b>a", "rank 1 on b", "100 ms", "200 ms"} <= {*Page(shown).cells}


@given(
    freeze=st.lists(st.sampled_from(["features", "a b$", "'"]), max_size=2),
    keep_ratio=st.booleans(),
    lr=st.floats(0, 1),
    warmup_epochs=st.none() | st.integers(0, 3),
)
def test_the_command_repeats_any_settings(freeze, keep_ratio, lr, warmup_epochs):
    config = Config(
        freeze=tuple(freeze), keep_ratio=keep_ratio, lr=lr, warmup_epochs=warmup_epochs, data="a b"
    )
    settings = json.loads(json.dumps(config.as_dict()))
    command = RunHistory(Path("x"), settings, [EPOCH], None).command()
    assert settings_flags.parse(shlex.split(command)[3:]) == replace(config, out="x-again")


def test_compared_runs_with_equal_names_are_shown_with_their_paths(tmp_path):
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    for folder in folders:
        folder.parent.mkdir()
    runs = [history.read(write_run(folder, lr=lr)) for folder, lr in zip(folders, (0.5, 0.25))]
    cells = {*Page(run_report.render(runs[0], runs[1:], "none")).cells}
    assert {*map(str, folders), "--lr", "0.5", "0.25"} <= cells


CELL = run_report.environment().from_string('<table><td title="{{ text }}">{{ text }}</td></table>')


@given(st.text())
def test_any_text_is_escaped(text):
    shown = CELL.render(text=text)
    parsed = Page(shown)
    assert [tag for tag, _ in parsed.elements] == ["table", "td"] and parsed.unclosed == []
    shown.encode()
    if text.isprintable():
        assert parsed.cells == [text] and parsed.elements[1][1]["title"] == text


def test_many_classes_are_shown_as_an_image_with_a_pixel_per_pair(tmp_path):
    counts = np.eye(101, dtype=np.int64)
    pixels = np.asarray(sections.matrix_image(counts))
    assert pixels.shape == (101, 101)
    assert (pixels.diagonal() == 0).all() and pixels.sum() == 255 * (101 * 101 - 101)
    run = history.read(write_run(tmp_path, [replace(EPOCH, confusion=counts.tolist())]))
    (image,) = Page(run_report.render(run, [], "none")).attributes_of("img")
    assert (image["width"], image["height"]) == ("101", "101")


def test_charts_have_the_text_color_of_the_page():
    chart = charts.by_epoch("loss", [charts.Line([1, 2], [3.0, 4.0], "#d55e00")])
    assert "currentColor" in chart and charts.TEXT_COLOR not in chart and "#d55e00" in chart
    assert re.search(r'<svg role="img" aria-label="loss"', chart)
