"""Writes the HTML report of a run: one file that needs no network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Sequence

import jinja2
from markupsafe import Markup

from dist_ft import files
from dist_ft.data import sources
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.evaluation.confidence_intervals import wilson
from dist_ft.inference import heatmap, model_evaluation, trained_model
from dist_ft.inference.model_evaluation import SplitPredictions
from dist_ft.reporting import charts, history, sections
from dist_ft.reporting.history import RunHistory
from dist_ft.settings import flag_of
from dist_ft.text import on_one_line
from dist_ft.tracking.epoch_scores import EpochScores
from dist_ft.tracking.test_scores import TestScores


def write(
    folder: Path,
    out: Path,
    world: World,
    num_workers: int,
    compare: Sequence[Path] = (),
    data: str | None = None,
    with_images: bool = True,
) -> None:
    """Writes the report of the run in `folder`, on rank 0; all ranks call it.

    num_workers: decoding threads; compare: folders of other runs; data: folder of the images
    (default: that of the run). Raises UserError.
    """
    run, others = history.read(folder), [history.read(other) for other in compare]
    predictions: SplitPredictions | str = "left out by --images no"
    if with_images:
        predictions = predictions_of(run, data or run.settings["data"], world, num_workers)
    if world.is_main:
        with files.output_file(out, "--out") as path:
            path.write_text(render(run, others, predictions), encoding="utf-8")


def predictions_of(
    run: RunHistory, data: str, world: World, num_workers: int
) -> SplitPredictions | str:
    """Predictions of the run's best checkpoint on the images that selected it, or why not.

    data: the folder of the data set.
    """
    if run.checkpoint is None:
        return f"{run.folder / 'checkpoints'} has no complete checkpoint"
    try:
        model = trained_model.load(run.checkpoint.path)
        dataset = sources.read_divided(run.data_settings(data))
        found = model_evaluation.predict_selection_images(model, dataset, world, num_workers)
        worst = found.predictions.worst(sections.MAX_IMAGES)
        maps = heatmap.of_predictions(model, found.split, worst, world)
        return found._replace(heatmaps=maps)
    except UserError as error:
        return str(error)


def render(
    run: RunHistory, others: Sequence[RunHistory], predictions: SplitPredictions | str
) -> str:
    """The page of a run, compared with others; see `predictions_of`."""
    runs = [run, *others]
    names = [each.name for each in runs]
    title = " and ".join(names)
    if len(set(names)) < len(names):
        names = [str(each.folder) for each in runs]
    ended_s = (run.folder / "scores.jsonl").stat().st_mtime
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            run=run,
            title=title,
            ended=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ended_s)),
            runs=list(zip(names, runs)) if others else [],
            comparison=sections.comparison(runs) if others else None,
            curves=sections.curves(run),
            confusion=sections.confusion(run),
            classes=sections.class_rows(run),
            images=sections.images(run, predictions),
            speed=sections.speed(run),
            settings=sections.settings(run),
            colors=charts.COLORS,
            train_color=sections.TRAIN_COLOR,
            test_color=sections.TEST_COLOR,
        )
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
        flag=flag_of, interval=_interval, duration=_duration, setting=sections.setting_text
    )
    return templates


def _printable(value: Any) -> Any:
    """Escapes control characters and undecodable bytes: names of files and classes may have any."""
    return value if isinstance(value, Markup) else on_one_line(str(value))


def _interval(scores: EpochScores | TestScores) -> str:
    """The 95 % interval of an accuracy."""
    low, high = wilson(scores.correct, scores.images)
    return f"{low:.3f} to {high:.3f}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
