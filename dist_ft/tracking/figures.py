"""Pictures of a run, as matplotlib figures drawn without a display."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np
from matplotlib.figure import Figure

from dist_ft.text import on_one_line

TRAIN, TEST = "#7f7f7f", "#d62728"
ROW = 4  # pictures


def curves(history: list[dict[str, Any]]) -> Figure:
    """Loss and accuracy by epoch; history: rows of scores.jsonl."""
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy")):
        for split, colour in (("train", TRAIN), ("test", TEST)):
            values = [row[f"{split}_{name}"] for row in history]
            axes.plot(epochs, values, color=colour, marker=".", label=split)
        axes.set_xlabel("epoch")
        axes.set_title(name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure


def confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """counts: (C, C), images of class [row] that were taken for [column]."""
    num_classes = len(classes)
    side = max(4.0, 1.5 + 0.6 * min(num_classes, 40))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    if num_classes <= 40:
        names = [on_one_line(name) for name in classes]
        # A class may be called $x_{$, which is no mathematics.
        axes.set_xticks(range(num_classes), names, rotation=60, ha="right", parse_math=False)
        axes.set_yticks(range(num_classes), names, parse_math=False)
    if num_classes <= 20:
        for row, column in np.ndindex(counts.shape):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=colour)
    return figure


def captioned(pixels: np.ndarray, captions: Sequence[str]) -> Figure:
    """Pictures in rows of four, each above its caption of two lines; pixels: (n, side, side, 3)
    uint8 RGB."""
    num_rows, side = -(-len(pixels) // ROW), pixels.shape[1]
    strip, gap = side // 4, side // 16  # below a picture, for its caption, and beside it
    sheet = np.full((num_rows * (side + strip), ROW * (side + gap), 3), 255, np.uint8)
    figure = Figure(figsize=(7, 7 * sheet.shape[0] / sheet.shape[1]))
    axes = figure.add_axes((0, 0, 1, 1))
    for number, (picture, caption) in enumerate(zip(pixels, captions)):
        top, left = number // ROW * (side + strip), number % ROW * (side + gap)
        sheet[top : top + side, left : left + side] = picture
        axes.text(left, top + side * 1.02, caption, va="top", fontsize=7, parse_math=False)
    axes.imshow(sheet, interpolation="nearest")
    axes.set_axis_off()
    return figure
