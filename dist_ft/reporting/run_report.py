"""Writes the report of a run's folder to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from dist_ft import files
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.inference import model_evaluation, trained_model
from dist_ft.inference.model_evaluation import TestPredictions
from dist_ft.reporting import history, page
from dist_ft.reporting.history import RunHistory


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

    num_workers: decoding threads; compare: folders of other runs; data: folder of the test images
    (default: that of the run). Raises UserError.
    """
    run, others = history.read(folder), [history.read(other) for other in compare]
    predictions: TestPredictions | str = "left out by --images no"
    if with_images:
        predictions = predictions_of(run, data or run.settings["data"], world, num_workers)
    if world.is_main:
        with files.output_file(out, "--out") as path:
            path.write_text(page.render(run, others, predictions), encoding="utf-8")


def predictions_of(
    run: RunHistory, data: str, world: World, num_workers: int
) -> TestPredictions | str:
    """Predictions of the run's best checkpoint on the test images of a folder.

    Returns the reason if there are none.
    """
    if run.checkpoint is None:
        return f"{run.folder / 'checkpoints'} has no complete checkpoint"
    try:
        model = trained_model.load(run.checkpoint.path)
        return model_evaluation.predict_test_images(model, data, world, num_workers)
    except UserError as error:
        return str(error)
