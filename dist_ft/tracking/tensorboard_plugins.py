"""A run's row in TensorBoard's HPARAMS table, histograms, and evaluated images in its projector."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any

import cv2
import mxnet as mx
import numpy as np
from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from dist_ft.config import Config
from dist_ft.data.dataset import Dataset
from dist_ft.data.rank_batches import load_test_image
from dist_ft.data.transforms import InputSpec
from dist_ft.evaluation.evaluator import Evaluation
from dist_ft.job_settings import OutputSettings
from dist_ft.models.mxnet_internals import parameters_by_path
from dist_ft.text import on_one_line, printable

# Shown for every run, so that these columns have no gaps; other settings only if not the default.
ALWAYS_SHOWN = (
    *("model", "image_size", "batch_size", "epochs", "seed"),
    *("optimizer", "lr", "momentum", "wd", "schedule", "head_lr_mult", "backbone_lr_mult", "bn"),
)
OUTPUT = {f.name for f in fields(OutputSettings)}
NUM_BINS = 64  # of equal width; TensorBoard shows 30
THUMBNAIL_PX = 48
COLUMNS = ["class", "predicted", "correct", "probability", "file"]  # of the projector


def start_hparams(writer: SummaryWriter, settings: dict[str, Any]) -> None:
    """Starts the run's row; its result columns are the latest scalars of the writer's run.

    SummaryWriter.add_hparams is not used: it makes a second run for the row, and its list of
    columns would be applied to all runs of the log folder.
    """
    columns = {}
    for f in fields(Config):
        value = settings.get(f.name, f.default)
        is_changed = value != f.default and f.name not in OUTPUT
        if f.name in ALWAYS_SHOWN or is_changed:
            columns[f.name] = _cell(value)
    _, start, _ = hparams(columns, {})
    writer.file_writer.add_summary(start)


def end_hparams(writer: SummaryWriter) -> None:
    """Marks the run as finished successfully."""
    _, _, success = hparams({}, {})
    writer.file_writer.add_summary(success)


def _cell(value: Any) -> Any:
    """A number, a boolean or text: all that TensorBoard accepts."""
    if isinstance(value, (bool, int, float)):
        return value
    return printable(" ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value))


def add_histograms(
    writer: SummaryWriter, net: mx.gluon.Block, trainer: mx.gluon.Trainer, step: int
) -> None:
    """Adds every parameter, and the last step's mean gradient of each trained parameter.

    The gradients are shown as the optimizer sees them: reduced over ranks and clipped.
    """
    for name, parameter in parameters_by_path(net).items():
        tag = name.replace(".", "/", 1)
        writer.add_histogram(f"weights/{tag}", parameter.data().asnumpy(), step, NUM_BINS)
        if parameter.grad_req != "null":
            # Trainer.update puts 1 / (images in the step) into rescale_grad.
            mean = parameter.grad().asnumpy() * trainer.optimizer.rescale_grad
            writer.add_histogram(f"gradients/{tag}", mean, step, NUM_BINS)


def add_projector(
    writer: SummaryWriter, evaluation: Evaluation, dataset: Dataset, spec: InputSpec, step: int
) -> None:
    """Adds the features of evaluated images, with a thumbnail and a row of COLUMNS for each."""
    split = dataset.selection

    def thumbnail(index: int) -> np.ndarray:
        pixels = load_test_image(split, index, spec)
        return cv2.resize(pixels, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)

    indices = evaluation.features.indices
    with ThreadPoolExecutor() as threads:
        thumbnails = np.stack(list(threads.map(thumbnail, indices.tolist())))
    classes = [on_one_line(name) for name in dataset.classes]  # a tab would start another column
    rows = [
        [
            classes[prediction.label],
            classes[prediction.predicted],
            "yes" if prediction.predicted == prediction.label else "no",
            f"{prediction.p_predicted:.3f}",
            on_one_line(split.paths[prediction.index]),
        ]
        for prediction in evaluation.predictions.at(indices)
    ]
    writer.add_embedding(
        evaluation.features.features,
        metadata=rows,
        label_img=thumbnails.transpose(0, 3, 1, 2) / np.float32(255),
        global_step=step,
        tag=f"{dataset.selection_name}_images",
        metadata_header=COLUMNS,
    )
