"""The report of a real run, as the command writes it and a browser shows it."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

from dist_ft import settings_flags
from dist_ft.reporting import history, run_report, sections
from tests.browser import DESKTOP, PHONE, SCREENSHOTS, needs_chromium
from tests.conftest import TINY, run_job, train
from tests.html_page import Page

pytestmark = pytest.mark.jobs

# "/" cannot be in a file name; U+2215 looks like it.
HOSTILE_NAME = "<script>document.title='caught'<\u2215script>&\"'"


@pytest.fixture(scope="module")
def data(tiny, tmp_path_factory):
    """The tiny data set, with a class named like HTML and one whose name is not UTF-8."""
    root = tmp_path_factory.mktemp("hostile")
    shutil.copytree(tiny, root, dirs_exist_ok=True)
    for split in ("train", "test"):
        (root / split / "class_a").rename(root / split / HOSTILE_NAME)
        (root / split / "class_b").rename(root / split / os.fsdecode(b"caf\xe9"))
    return root


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    flags = [*TINY, "--data", str(data), "--epochs", "2", "--log-every", "1"]
    train(*flags, "--out", str(folder))
    return folder


@pytest.fixture(scope="module")
def report_file(run):
    """The report of the run, compared with a copy that has another learning rate."""
    other = run.with_name("second")
    shutil.copytree(run, other, ignore=shutil.ignore_patterns("checkpoints"))
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**settings, "lr": 0.125}))
    words = ["-m", "dist_ft.report", str(run), "--compare", str(other)]
    ended = run_job(words, timeout_s=120)
    assert ended.status == 0, ended.output
    assert ended.output.startswith(f"{run / 'report.html'}: ")
    return run / "report.html"


@pytest.fixture(scope="module")
def report(report_file):
    return Page(report_file.read_text(encoding="utf-8"))


def rows_of(run):
    return [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]


def best_confusion(run):
    return max(rows_of(run), key=lambda row: row["test_accuracy"])["confusion"]


def test_the_html_is_well_formed_and_loads_nothing_from_elsewhere(report_file, report):
    assert report.unclosed == []
    ids = [attrs["id"] for _, attrs in report.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"] for attrs in report.attributes_of("a")} <= {f"#{id_}" for id_ in ids}
    for _, attrs in report.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert attrs.get(name, "#").startswith(("#", "data:image/"))
    assert {tag for tag, _ in report.elements} & {"script", "link", "iframe", "object"} == set()
    assert not re.search(r"url\((?!#)", report_file.read_text(encoding="utf-8"))


def test_the_page_shows_the_scores_and_the_speed_of_every_epoch(run, report):
    for row in rows_of(run):
        shown = f"{row['test_loss']:.4f}", f"{row['test_accuracy']:.3f}"
        assert {*shown, f"{row['images_per_s']:,.1f}"} <= {*report.cells}


def test_confusion_and_recalls_are_those_of_the_best_epoch(run, report):
    start = report.cells.index("true \\ predicted") + 6  # a head of six cells
    rows = [report.cells[start + 6 * label + 1 : start + 6 * label + 6] for label in range(5)]
    counts = np.array(best_confusion(run))
    assert [[int(count) for count in row] for row in rows] == counts.tolist()
    recalls = report.cells[report.cells.index("class") + 7 :][2 : 5 * 7 : 7]
    assert recalls == [f"{share:.3f}" for share in sorted(counts.diagonal() / counts.sum(axis=1))]


def test_thumbnails_have_an_alternative_text_and_are_small(report):
    images = report.attributes_of("img")
    assert len(images) >= 24
    assert all(", predicted " in image["alt"] for image in images)
    assert all(len(image["src"]) < 20_000 for image in images)


def test_each_of_the_worst_mistakes_has_its_map_beside_it(run, data, world, report):
    images = report.attributes_of("img")
    predictions = run_report.predictions_of(history.read(run), str(data), world, 2)
    worst = predictions.predictions.worst(sections.MAX_IMAGES)
    assert {*predictions.heatmaps} == {prediction.index for prediction in worst}
    for number in range(len(worst)):
        picture, class_map = images[2 * number : 2 * number + 2]
        assert class_map["alt"] == f"{picture['alt']}: class-activation map"
        assert class_map["src"] != picture["src"]
    without = run_report.render(history.read(run), [], predictions._replace(heatmaps=None))
    assert "class-activation map" not in without and "what the network gets" not in without
    assert without.count("<img") == len(images) - len(worst)


def test_names_are_shown_as_text(report_file, report):
    source = report_file.read_text(encoding="utf-8")
    assert "<script" not in source
    assert html.escape(HOSTILE_NAME, quote=False) in html.escape(html.unescape(source), quote=False)
    assert {HOSTILE_NAME, "caf\\udce9"} <= {*report.cells}


def test_compared_runs_show_the_settings_that_differ(report):
    assert {"first", "second", "0.05", "0.125", "--lr"} <= {*report.cells}
    assert report.cells.count("--epochs") == 1  # in the section of settings only


def test_predictions_agree_with_the_scores_of_the_run(run, data, world):
    found = run_report.predictions_of(history.read(run), str(data), world, 2)
    confusion = np.zeros((5, 5), int)
    table = found.predictions.table
    np.add.at(confusion, (table["label"], table["predicted"]), 1)
    assert found.same_images and confusion.tolist() == best_confusion(run)


def test_the_command_repeats_the_settings_and_the_number_of_ranks(run):
    read = history.read(run)
    words = shlex.split(read.command())
    assert words[:3] == ["python", "-m", "dist_ft.train"]
    repeated = json.loads(json.dumps(settings_flags.parse(words[3:]).as_dict()))
    settings = json.loads((run / "config.json").read_text())
    assert repeated == {**settings, "out": f"{run}-again"}
    read.checkpoint.state.num_ranks = 4
    assert read.command().startswith("horovodrun -np 4 python -m dist_ft.train --data ")


def test_a_page_without_images_says_why(run, tmp_path, world):
    for options, reason in (
        ({"data": "missing-folder"}, "no such folder"),
        ({"with_images": False}, "left out by --images no"),
    ):
        run_report.write(run, tmp_path / "page.html", world, 2, **options)
        shown = (tmp_path / "page.html").read_text()
        assert reason in shown and "<img" not in shown


def test_images_of_other_classes_are_rejected(run, tiny, world):
    reason = run_report.predictions_of(history.read(run), str(tiny), world, 2)
    assert "its classes are not those of the run" in reason


def test_a_missing_folder_is_an_error_message(tmp_path):
    ended = run_job(["-m", "dist_ft.report", str(tmp_path / "missing")], timeout_s=120)
    assert ended.status == 1
    assert f"{tmp_path / 'missing'}: not a run of dist_ft.train" in ended.output


def test_predictions_of_another_checkpoint_than_the_best_are_noted(run, data, world, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (history.read(tmp_path / "run").checkpoint.path / "net.params").write_bytes(b"")
    damaged = history.read(tmp_path / "run")
    predictions = run_report.predictions_of(damaged, str(data), world, 2)
    shown = run_report.render(damaged, [], predictions)
    assert re.search(r"best epoch \(step \d+\) is missing or damaged", shown)


@needs_chromium
@pytest.mark.browser
@pytest.mark.parametrize("size", [DESKTOP, PHONE, (320, 568)], ids=["1280", "390", "320"])
def test_chromium_shows_the_page_at_every_width_without_errors(report_file, browser, size):
    browser.open(report_file.as_uri(), size)
    browser.wait_for("Least certain")
    picture = browser.screenshot(f"report-{size[0]}", whole=True)
    assert browser.errors() == []
    assert browser.evaluate("document.title") == "first and second"
    assert browser.evaluate("document.documentElement.scrollWidth") == size[0]
    widths = browser.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) >= 24 and all(widths)
    with Image.open(picture) as image:
        assert image.width == size[0]
        pixels = np.asarray(image.convert("RGB"))
    test_curve = abs(pixels.astype(int) - (213, 94, 0)).max(axis=2) < 8
    assert test_curve.sum() > 200


@needs_chromium
@pytest.mark.browser
def test_the_page_prints_on_a_few_sheets(report_file, browser):
    browser.open(report_file.as_uri())
    browser.wait_for("Least certain")
    pdf = browser.pdf()
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    (SCREENSHOTS / "report.pdf").write_bytes(pdf)
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 8
