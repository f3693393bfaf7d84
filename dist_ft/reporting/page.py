"""Renders the HTML report of a run: one file that needs no network."""

from __future__ import annotations

import time
from typing import Any, Sequence

import jinja2
from markupsafe import Markup

from dist_ft.evaluation.confidence_intervals import wilson
from dist_ft.inference.model_evaluation import TestPredictions
from dist_ft.reporting import charts, sections
from dist_ft.reporting.history import RunHistory
from dist_ft.settings import flag_of
from dist_ft.text import on_one_line
from dist_ft.tracking.epoch_scores import EpochScores


def render(
    run: RunHistory, others: Sequence[RunHistory], predictions: TestPredictions | str
) -> str:
    """The page of a run, compared with others.

    predictions: of the run's best checkpoint on the test images, or why there are none.
    """
    ended_s = (run.folder / "scores.jsonl").stat().st_mtime
    names = sections.run_names([run, *others])
    template = environment().get_template("page.html.j2")
    return template.render(
        run=run,
        title=" and ".join(each.name for each in (run, *others)),
        ended=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ended_s)),
        runs=list(zip(names, (run, *others))) if others else [],
        comparison=sections.comparison([run, *others]) if others else None,
        curves=sections.curves(run),
        confusion=sections.confusion(run),
        classes=sections.class_rows(run),
        images=sections.images(run, predictions),
        speed=sections.speed(run),
        settings=sections.settings(run),
        colours=charts.COLOURS,
        train_colour=sections.TRAIN_COLOUR,
        test_colour=sections.TEST_COLOUR,
    )


def environment() -> jinja2.Environment:
    """Templates whose values are escaped, and printable."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("dist_ft.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(
        flag=flag_of, interval=interval, duration=duration, setting=sections.setting_text
    )
    return templates


def _printable(value: Any) -> Any:
    """Escapes control characters and undecodable bytes: names of files and classes may have any."""
    return value if isinstance(value, Markup) else on_one_line(str(value))


# Filters


def interval(epoch: EpochScores) -> str:
    """The 95 % interval of a test accuracy."""
    low, high = wilson(epoch.test_correct, epoch.test_images)
    return f"{low:.3f} to {high:.3f}"


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
