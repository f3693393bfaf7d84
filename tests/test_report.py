"""report: the page about a run, read as a browser reads it."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tensorboardX import SummaryWriter

from dist_ft import cli
from dist_ft.config import Config
from dist_ft.errors import UserError
from dist_ft.reporting import comparison, exhibits, history, markup, run_report, svg
from tests.browser import DESKTOP, PHONE, SCREENSHOTS, needs_chromium
from tests.conftest import TINY, run_job, train

HOSTILE = "<script>document.title='caught'</script>&\"'"


@pytest.fixture(scope="module")
def data(tiny, tmp_path_factory):
    """The tiny data set, one of its classes called as nobody would call it."""
    root = tmp_path_factory.mktemp("hostile")
    shutil.copytree(tiny, root, dirs_exist_ok=True)
    for split in ("train", "test"):
        (root / split / "class_a").rename(root / split / HOSTILE.replace("/", "\u2215"))
        (root / split / "class_b").rename(root / split / os.fsdecode(b"caf\xe9"))
    return root


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    flags = [*TINY, "--data", str(data), "--epochs", "2", "--log-every", "1"]
    train(*flags, "--out", str(folder))
    return folder


@pytest.fixture(scope="module")
def page(run):
    """The page's file, made by the command."""
    ended = run_job(["-m", "dist_ft.report", str(run)], timeout_s=60)
    assert ended.status == 0, ended.output
    return run / "report.html"


class Elements(HTMLParser):
    """Every element's name and attributes, those left open, and the text of tables' cells."""

    def __init__(self, source):
        super().__init__()
        self.found, self.open, self.cells = [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in markup.VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, text):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += text


@pytest.fixture(scope="module")
def elements(page):
    return Elements(page.read_text(encoding="utf-8"))


def rows_of(run):
    return [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]


def test_every_element_is_closed_and_no_id_is_there_twice(elements):
    assert elements.open == []
    ids = [attrs["id"] for _, attrs in elements.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"] for tag, attrs in elements.found if tag == "a"} <= {f"#{i}" for i in ids}


def test_nothing_on_the_page_is_anywhere_else(elements):
    for _, attrs in elements.found:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert attrs.get(name, "#").startswith(("#", "data:image/"))
    assert {tag for tag, _ in elements.found} & {"script", "link", "iframe", "object"} == set()
    assert "url(" not in re.sub(r"url\(#\w+\)", "", markup.STYLE)


def test_every_epochs_scores_stand_in_the_page(run, elements):
    for row in rows_of(run):
        assert {f"{row['test_loss']:.4f}", f"{row['test_accuracy']:.3f}"} <= {*elements.cells}


def test_the_confusion_matrix_is_the_best_epochs(run, elements):
    best = max(rows_of(run), key=lambda row: row["test_accuracy"])
    start = elements.cells.index("is \\ taken for")
    shown = elements.cells[start + 6 : start + 6 + 30]  # a head of six, then a name and five counts
    counts = [shown[6 * label + 1 : 6 * label + 6] for label in range(5)]
    assert [[int(count) for count in row] for row in counts] == best["confusion"]


def test_thumbnails_have_words_and_are_small(elements):
    pictures = [attrs for tag, attrs in elements.found if tag == "img"]
    num_wrong = len([p for p in pictures if ", taken for " in p["alt"]])
    assert num_wrong == len(pictures) >= 24
    assert all(len(picture["src"]) < 20_000 for picture in pictures)


def test_names_are_words_and_not_html(page, elements):
    source = page.read_text(encoding="utf-8")
    assert "<script" not in source
    shown = html.escape(HOSTILE.replace("/", "\u2215"))
    assert shown in source and "caf\\udce9" in elements.cells


def test_guesses_agree_with_the_epochs_scores(run, data):
    """The report's own pass over the test images gets as many right as the run's did."""
    found = run_report.guesses_of(history.read(run), str(data))
    best = max(rows_of(run), key=lambda row: row["test_accuracy"])
    confusion = np.zeros((5, 5), int)
    table = found.predictions.table
    np.add.at(confusion, (table["label"], table["predicted"]), 1)
    assert found.same_images and confusion.tolist() == best["confusion"]
    worst, uncertain = found.predictions.worst(9), found.predictions.least_certain(9)
    assert all(guess.label != guess.predicted for guess in worst)
    assert [g.p_label for g in worst] == sorted(g.p_label for g in worst)
    smallest = np.sort(table["p_predicted"])[:9]
    assert [g.p_predicted for g in uncertain] == smallest.tolist()


def test_the_command_makes_the_same_settings(run, data):
    words = shlex.split(history.read(run).command())
    assert words[:3] == ["python", "-m", "dist_ft.train"]
    again = cli.parse(words[3:]).as_dict()
    settings = {name: tuple(v) if isinstance(v, list) else v for name, v in again.items()}
    kept = json.loads((run / "config.json").read_text())
    assert {**kept, "out": f"{run}-again"} == json.loads(json.dumps(settings))


def test_a_run_of_several_ranks_is_repeated_by_as_many(run):
    found = history.read(run)
    assert found.best.state["ranks"] == 1
    found.best.state["ranks"] = 4
    assert found.command().startswith("horovodrun -np 4 python -m dist_ft.train --data ")


@given(
    freeze=st.lists(st.sampled_from(["features", "a b$", "'"]), max_size=2),
    keep_ratio=st.booleans(),
    lr=st.floats(0, 1),
    warmup_epochs=st.none() | st.integers(0, 3),
)
def test_any_settings_come_back_from_the_command(freeze, keep_ratio, lr, warmup_epochs):
    given = Config(
        freeze=tuple(freeze), keep_ratio=keep_ratio, lr=lr, warmup_epochs=warmup_epochs, data="a b"
    )
    settings = json.loads(json.dumps(given.as_dict()))
    told = history.History(Path("x"), settings, [{}], None, []).command()
    again = cli.parse(shlex.split(told)[3:])
    assert again == Config(**{**given.as_dict(), "out": "x-again"})


def test_the_waiting_and_the_speed_are_read_from_tensorboards_files(run):
    read = history.read(run)
    assert read.paces[-1].step == 6 and all(pace.images_per_s > 0 for pace in read.paces)
    assert 0 <= read.wait_share <= 1
    for row, speed in zip(rows_of(run), read.images_per_s()):
        assert speed == pytest.approx(53 / row["elapsed_s"])


def test_where_each_ranks_steps_went_is_shown_over_all_epochs(run, tmp_path):
    hosts = ["<b>a", "b"]
    for row in (rows := rows_of(run)):
        row["ranks"] = [
            {"rank": r, "host": host, "step_s": 0.1 * (r + 1), "data_s": 6 * r, "rest_s": 2}
            for r, host in enumerate(hosts)
        ]
        for rank in row["ranks"]:
            rank["others_s"] = 8 - rank["data_s"] - rank["rest_s"]
    shutil.copytree(run, tmp_path / "run")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "run" / "scores.jsonl").write_text(lines, encoding="utf-8")
    read = history.read(tmp_path / "run")
    assert read.spent() == [
        history.Spent("rank 0 on <b>a", 0.1, 0, 4, 12),
        history.Spent("rank 1 on b", 0.2, 12, 4, 0),
    ]
    page = run_report.report(read, [], "not asked for")
    assert "width:75.00%" in page and "75% other ranks" in page
    assert '<th scope="row" title="rank 0 on &lt;b&gt;a">rank 0 on &lt;b&gt;a</th>' in page
    assert history.read(run).spent() == []  # one process


def test_a_later_file_of_events_tells_anew_from_where_it_begins(tmp_path):
    for name, first, steps, share in ((".1", 0, (10, 20, 30), 0.5), (".2", 21, (30, 40), 0.0)):
        with SummaryWriter(
            str(tmp_path / "tensorboard"), purge_step=first, filename_suffix=name
        ) as writer:
            for step in steps:
                writer.add_scalar(history.SPEED, 100.0, step)
                writer.add_scalar(history.WAIT, share, step)
    paces = tuple(history._paces(tmp_path))
    assert paces == ((10, 100, 0.5), (20, 100, 0.5), (30, 100, 0), (40, 100, 0))
    assert history.History(tmp_path, {}, [{}], None, [*paces]).wait_share == 0.25


def test_events_that_are_cut_end_where_they_are_cut(run, tmp_path):
    shutil.copytree(run / "tensorboard", tmp_path / "tensorboard")
    (path,) = (tmp_path / "tensorboard").glob("events*")
    whole = list(history._events(path))
    path.write_bytes(path.read_bytes()[:-5])
    assert len(list(history._events(path))) == len(whole) - 1


def test_missing_images_are_told_and_the_page_is_made(run, tmp_path):
    for flags, reason in (
        (["--data", str(tmp_path / "none")], "no such folder"),
        (["--images", "no"], "--images no left them out"),
    ):
        out = tmp_path / "page.html"
        words = ["-m", "dist_ft.report", str(run), *flags, "--out", str(out)]
        assert run_job(words, timeout_s=60).status == 0
        assert reason in out.read_text() and "<img" not in out.read_text()


def test_other_classes_are_no_images_of_the_run(run, tiny):
    assert "other classes" in run_report.guesses_of(history.read(run), str(tiny))


def test_a_run_without_checkpoints_has_a_page(run, tmp_path):
    shutil.copytree(run, tmp_path / "bare", ignore=shutil.ignore_patterns("checkpoints"))
    bare = history.read(tmp_path / "bare")
    shown = run_report.report(bare, [], run_report.guesses_of(bare, "none"))
    assert "has no whole checkpoint" in shown and "class 4" in shown


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        history.read(tmp_path)
    (tmp_path / "scores.jsonl").write_text('{"epoch": 1, "st')
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no epoch is over"):
        history.read(tmp_path)


@pytest.mark.parametrize(
    "name, words",
    [
        *(("config.json", words) for words in ("[]", '{"architectures": ["Net"]}')),
        *(("scores.jsonl", words) for words in ("3\n", '{"epoch": 1, "loss": 0.5}\n')),
    ],
)
def test_another_programs_files_are_named(run, tmp_path, name, words):
    for own in ("config.json", "scores.jsonl"):
        shutil.copy(run / own, tmp_path)
    (tmp_path / name).write_text(words)
    ended = run_job(["-m", "dist_ft.report", str(tmp_path)], timeout_s=60)
    assert ended.status == 1
    assert f"dist_ft: {tmp_path / name}: not of dist_ft.train" in ended.output


def test_events_that_are_damaged_end_where_they_are(run, tmp_path):
    shutil.copytree(run / "tensorboard", tmp_path / "tensorboard")
    (path,) = (tmp_path / "tensorboard").glob("events*")
    data, whole = bytearray(path.read_bytes()), list(history._events(path))
    place = data.rindex(b"speed/images_per_s")
    data[place - 4 : place] = b"\xff" * 4
    path.write_bytes(data)
    assert 0 < len(list(history._events(path))) < len(whole)


@pytest.mark.parametrize(
    "change", [{"test_accuracy": None}, {"confusion": [[1, 2], [3]]}, {"confusion": [[0.5]]}]
)
def test_a_row_of_scores_that_is_damaged_is_told(run, tmp_path, change):
    shutil.copy(run / "config.json", tmp_path)
    rows = [{**row, **change} for row in rows_of(run)]
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"scores\.jsonl: not of dist_ft\.train"):
        history.read(tmp_path)


def test_images_of_another_checkpoint_than_the_best_epochs_are_said_to_be(run, data, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    best = history.read(tmp_path / "run").best.path
    (best / "net.params").write_bytes(b"")
    left = history.read(tmp_path / "run")
    page = run_report.report(left, [], run_report.guesses_of(left, str(data)))
    said = "is missing or damaged: this is what the network of step"
    assert said in page
    whole = history.read(run)
    assert said not in run_report.report(whole, [], run_report.guesses_of(whole, str(data)))


def test_the_page_is_equal_for_an_equal_run(run, data):
    read = history.read(run)
    pages = {run_report.report(history.read(run), [read], "none") for _ in range(2)}
    assert len(pages) == 1


def test_runs_side_by_side_show_what_differs(run, tmp_path):
    other = tmp_path / "second"
    shutil.copytree(run, other, ignore=shutil.ignore_patterns("checkpoints"))
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**settings, "lr": 0.125}))
    cells = Elements(comparison.side_by_side([history.read(run), history.read(other)])).cells
    assert {"first", "second", "0.05", "0.125", "--lr"} <= {*cells} and "--epochs" not in cells


@given(st.text())
def test_any_text_is_shown_as_text(words):
    shown = markup.element("td", words, title=words)
    found = Elements(shown)
    assert [tag for tag, _ in found.found] == ["td"] and found.open == []
    shown.encode()
    if words.isprintable():
        assert found.cells == [words] and found.found[0][1].get("title", "") == words


def test_the_hardest_class_comes_first(run, elements):
    recalls = elements.cells[elements.cells.index("class") + 7 :][2 : 5 * 7 : 7]
    counts = np.array(max(rows_of(run), key=lambda row: row["test_accuracy"])["confusion"])
    assert recalls == [f"{share:.3f}" for share in sorted(counts.diagonal() / counts.sum(axis=1))]


def test_many_classes_make_a_picture_of_a_pixel_a_pair():
    shown = exhibits.mapped(np.eye(101, dtype=np.int64))
    source = Elements(shown).found[1][1]["src"]
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
        assert picture.size == (101, 101)
        pixels = np.asarray(picture)
    assert (pixels.diagonal() == 0).all() and pixels.sum() == 255 * (101 * 101 - 101)


def test_curves_are_in_the_pages_ink():
    drawn = svg.curves("loss", "epoch", [svg.Curve([1, 2], [3.0, 4.0], "#d55e00")])
    assert "currentColor" in drawn and svg.INK not in drawn and "http" not in drawn
    assert "#d55e00" in drawn


@needs_chromium
def test_a_complaint_of_chromiums_is_heard(browser, tmp_path):
    page = tmp_path / "broken.html"
    page.write_text("<!DOCTYPE html><p>here<script>missing()</script>")
    browser.open(page.as_uri())
    browser.wait_for("here")
    assert any("missing is not defined" in complaint for complaint in browser.errors())


@needs_chromium
@pytest.mark.parametrize("size", [DESKTOP, PHONE, (320, 568)], ids=["1280", "390", "320"])
def test_chromium_shows_the_page_whole_and_does_not_complain(page, browser, size):
    browser.open(page.as_uri(), size)
    browser.wait_for("The least certain")
    picture = browser.screenshot(f"report-{size[0]}", whole=True)
    assert browser.errors() == []
    assert browser.evaluate("document.title") == "first"
    assert browser.evaluate("innerWidth") == size[0]
    assert browser.evaluate("document.documentElement.scrollWidth") == size[0]  # no further aside
    widths = browser.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) >= 24 and all(widths)
    with Image.open(picture) as image:
        assert image.width == size[0]
        pixels = np.asarray(image.convert("RGB"))
    assert (abs(pixels.astype(int) - (213, 94, 0)).max(axis=2) < 8).sum() > 200  # the test's curve


@needs_chromium
def test_the_page_is_printed_on_a_few_sheets_without_its_links(page, browser):
    browser.open(page.as_uri())
    browser.wait_for("The least certain")
    sheets = browser.pdf()
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    (SCREENSHOTS / "report.pdf").write_bytes(sheets)
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", sheets)) <= 8
