"""What is looked at on the page about a run: a matrix of counts, thumbnails, curves with a key."""

from __future__ import annotations

import io
from typing import Iterable, Sequence

import numpy as np
from PIL import Image

from dist_ft.data.dataset import Split
from dist_ft.data.decoding import CorruptImage, decode
from dist_ft.evaluation.predictions import Prediction
from dist_ft.inference.model_evaluation import TestPredictions
from dist_ft.reporting import markup
from dist_ft.reporting.markup import Markup, element, join, row, table

THUMBNAIL_PX = 96  # the longer side
DEEP = 0.6  # share of a colour from which on white is read on it, and not the text's colour


def counted(counts: np.ndarray, names: Sequence[str]) -> Markup:
    """The matrix as a table, its cells coloured by their share of the row.

    counts: (C, C), images of class [row] that were taken for [column].
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows = []
    for label, name in enumerate(names):
        cells = []
        for column, count in enumerate(counts[label]):
            share = shares[label, column]
            kind = "right" if column == label else "wrong"
            kind = f"{kind} deep" if share > DEEP else kind if count else "none"
            style = f"--share:{share:.3f}"
            cells.append(element("td", f"{count:,}", class_=kind, style=style))
        rows.append(row(name, *cells))
    heads = ["is \\ taken for", *names]
    return table(heads, rows, "Confusion matrix", "counts")


def mapped(counts: np.ndarray) -> Markup:
    """The matrix as a picture of a pixel a cell: white for none of the row, black for all."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    file = io.BytesIO()
    # The root, so that a few images in a hundred are seen.
    Image.fromarray((255 * (1 - np.sqrt(shares))).astype(np.uint8)).save(file, "PNG", optimize=True)
    size = len(counts)
    alt = f"Confusion matrix of {size} classes, dark on its diagonal where they are recognised"
    told = "A pixel a pair of classes, in the order of their names: what is, downwards; what it was"
    told += " taken for, to the right."
    shown = markup.picture(file.getvalue(), "png", alt, class_="map", width=size, height=size)
    return element("figure", shown, element("figcaption", told))


def pictures(guesses: TestPredictions, chosen: Sequence[Prediction]) -> Markup:
    """Thumbnails, each with what it is, what it was taken for, and how surely."""
    return element("ul", *(_picture(guesses, guess) for guess in chosen), class_="pictures")


def _picture(guesses: TestPredictions, guess: Prediction) -> Markup:
    classes, test = guesses.dataset.classes, guesses.dataset.test
    path, label, predicted = test.paths[guess.index], classes[guess.label], classes[guess.predicted]
    right = guess.label == guess.predicted
    verdict = f"{predicted} {guess.p_predicted:.0%}"
    own = "as it is labelled" if right else f"is {label} {guess.p_label:.0%}"
    alt = f"{label}, taken for {predicted}"
    shown = markup.picture(thumbnail(test, guess.index), "jpeg", alt, title=path)
    return element("li", shown, element("b", verdict), element("span", own, class_="soft"))


def thumbnail(split: Split, index: int) -> bytes:
    """A JPEG of at most 2 * THUMBNAIL_PX a side, for high-resolution screens; grey if unread."""
    try:
        image = Image.fromarray(decode(split.read(index)))
    except (CorruptImage, OSError):
        image = Image.new("RGB", (THUMBNAIL_PX, THUMBNAIL_PX), "grey")
    image.thumbnail((2 * THUMBNAIL_PX, 2 * THUMBNAIL_PX))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=70, optimize=True)
    return file.getvalue()


def figures(charts: Iterable[Markup], names: Iterable[tuple[str, str]] = ()) -> Markup:
    """Curves beside each other where there is room; names: of each colour."""
    shown = element("div", *(element("figure", chart) for chart in charts), class_="charts")
    return join(element("p", key(names)), shown) if names else shown


def bar(parts: Iterable[tuple[float, str]], alt: str) -> Markup:
    """Shares, 0..1, each with its colour, beside each other."""
    shown = (element("i", style=f"--colour:{colour};width:{share:.2%}") for share, colour in parts)
    return element("div", *shown, class_="bar", role="img", aria_label=alt)


def key(names: Iterable[tuple[str, str]]) -> Markup:
    return join(
        *(
            element("span", element("i", style=f"--colour:{colour}"), name, class_="key")
            for name, colour in names
        )
    )
