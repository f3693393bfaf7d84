"""Figures of a run, drawn by matplotlib without a display."""

from __future__ import annotations

from typing import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dist_ft.text import on_one_line
from dist_ft.tracking.epoch_scores import EpochScores

TRAIN_COLOR, TEST_COLOR = "#7f7f7f", "#d62728"
MAX_NAMED_CLASSES = 40  # in a confusion matrix
MAX_COUNTED_CLASSES = 20
IMAGES_PER_ROW = 4


def curves(history: Sequence[EpochScores]) -> Figure:
    """Loss and accuracy by epoch."""
    epochs, split = [row.epoch for row in history], history[-1].split
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for position, name in enumerate(("loss", "accuracy"), start=1):
        axes = figure.add_subplot(1, 2, position)
        train = [getattr(row, f"train_{name}") for row in history]
        axes.plot(epochs, train, color=TRAIN_COLOR, marker=".", label="train")
        values = [getattr(row, name) for row in history]
        axes.plot(epochs, values, color=TEST_COLOR, marker=".", label=split)
        axes.set_xlabel("epoch")
        axes.set_title(name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure


def confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """counts: (C, C), images of class [row] that were predicted as [column]."""
    num_classes = len(classes)
    side = max(4.0, 1.5 + 0.6 * min(num_classes, MAX_NAMED_CLASSES))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if num_classes <= MAX_NAMED_CLASSES:
        names = [on_one_line(name) for name in classes]
        # parse_math: a class may be called $x_{$, which is not a formula.
        axes.set_xticks(range(num_classes), names, rotation=60, ha="right", parse_math=False)
        axes.set_yticks(range(num_classes), names, parse_math=False)
    if num_classes <= MAX_COUNTED_CLASSES:
        for row, column in np.ndindex(counts.shape):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=color)
    return figure


def captioned(images: Sequence[np.ndarray], captions: Sequence[str]) -> Figure:
    """Images in rows of four, each above its caption of two lines.

    images: (side, side, 3) uint8 RGB each.
    """
    num_rows = -(-len(images) // IMAGES_PER_ROW)
    figure = Figure(figsize=(7, 2.1 * num_rows))
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.2 / num_rows, top=0.99, hspace=0.25)
    for position, (image, caption) in enumerate(zip(images, captions), start=1):
        axes = figure.add_subplot(num_rows, IMAGES_PER_ROW, position)
        axes.set_axis_off()
        axes.imshow(image, interpolation="nearest")
        axes.text(0, image.shape[0] * 1.02, caption, va="top", fontsize=7, parse_math=False)
    return figure
