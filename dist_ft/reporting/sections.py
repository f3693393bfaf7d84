"""Prepares the data of each section of the report for its template."""

from __future__ import annotations

import base64
import io
from typing import Any, Sequence

import numpy as np
from markupsafe import Markup
from PIL import Image

from dist_ft.data.dataset import Split
from dist_ft.data.decoding import decode
from dist_ft.data.image import CorruptImage
from dist_ft.evaluation.confidence_intervals import wilson
from dist_ft.evaluation.confusion import (
    class_scores,
    most_frequent_mistake_by_class,
    most_frequent_mistakes,
)
from dist_ft.evaluation.predictions import Prediction
from dist_ft.inference.model_evaluation import SplitPredictions
from dist_ft.reporting import charts
from dist_ft.reporting.history import DEFAULTS, RunHistory
from dist_ft.tracking.epoch_scores import RankTimes

TRAIN_COLOR, TEST_COLOR = "#7f7f7f", "#d55e00"
RANK_PARTS = ("waiting for data", "computing and writing", "waiting for other ranks")
MAX_TABLE_CLASSES = 24  # of a confusion matrix with numbers; a larger one is an image
MAX_GLANCE_CLASSES = 8  # of a matrix that needs no list of its largest numbers
MAX_CONFUSED_PAIRS = 15
MAX_RANKS = 32
MAX_IMAGES = 24  # of each kind; fills rows of 3, 6 and 8
THUMBNAIL_PX = 96  # the longer side
WHITE_TEXT_SHARE = 0.6  # a cell of at least this share of its row is dark


def setting_text(value: Any) -> str:
    """The value of a setting, of a Config or of config.json."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "") else str(value)


def comparison(runs: Sequence[RunHistory]) -> dict[str, Any]:
    colors = [charts.COLORS[i % len(charts.COLORS)] for i in range(len(runs))]
    names = sorted({name for run in runs for name in run.settings})
    values = {name: [setting_text(run.settings.get(name)) for run in runs] for name in names}
    splits = " or ".join(sorted({run.split for run in runs}))
    test_images = {run.facts["test images"] for run in runs if "test images" in run.facts}
    return {
        "charts": [
            charts.by_epoch(
                f"{splits} {name}",
                [_line(run, name, color) for run, color in zip(runs, colors)],
            )
            for name in ("accuracy", "loss")
        ],
        "differing": {name: texts for name, texts in values.items() if len(set(texts)) > 1},
        "same_images": len(test_images) <= 1,  # as far as it is known
    }


def _line(run: RunHistory, name: str, color: str, dashed: bool = False) -> charts.Line:
    """The values of a field of EpochScores, in the epochs that have one."""
    epochs = [epoch for epoch in run.epochs if getattr(epoch, name) is not None]
    x, y = [epoch.epoch for epoch in epochs], [getattr(epoch, name) for epoch in epochs]
    return charts.Line(x, y, color, dashed)


def curves(run: RunHistory) -> list[Markup]:
    return [
        charts.by_epoch(
            name,
            [
                _line(run, f"train_{name}", TRAIN_COLOR, dashed=True),
                _line(run, name, TEST_COLOR),
            ],
        )
        for name in ("accuracy", "loss")
    ]


def confusion(run: RunHistory) -> dict[str, Any]:
    """A table of cells or an image, and the most frequent confusions."""
    counts, names = run.confusion, run.classes
    pairs = most_frequent_mistakes(counts, MAX_CONFUSED_PAIRS)
    is_small = len(counts) <= MAX_TABLE_CLASSES
    return {
        "rows": list(zip(names, _cells(counts))) if is_small else None,
        "image": None if is_small else _data_uri(matrix_image(counts), "png"),
        "pairs": [(names[pair.label], names[pair.predicted], pair.num_images) for pair in pairs],
        "has_pairs": len(counts) > MAX_GLANCE_CLASSES,
    }


def _cells(counts: np.ndarray) -> list[list[dict[str, Any]]]:
    shares = _shares(counts)
    cells: list[list[dict[str, Any]]] = [[] for _ in counts]
    for row, column in np.ndindex(counts.shape):
        share, num_images = float(shares[row, column]), int(counts[row, column])
        style = "right" if column == row else "wrong"  # CSS classes
        style += " deep" if share > WHITE_TEXT_SHARE else ""
        style = style if num_images else "none"
        cells[row].append({"num_images": num_images, "share": share, "style": style})
    return cells


def matrix_image(counts: np.ndarray) -> Image.Image:
    """One pixel per cell: white for none of the row's images, black for all of them."""
    pixels = 255 * (1 - np.sqrt(_shares(counts)))  # the root makes a few per hundred visible
    return Image.fromarray(pixels.astype(np.uint8))


def _shares(counts: np.ndarray) -> np.ndarray:
    """Of the images of each row, 0..1."""
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def class_rows(run: RunHistory) -> list[dict[str, Any]]:
    """Scores of each class, the lowest recall first."""
    counts, names = run.confusion, run.classes
    scores = class_scores(counts)
    rows = []
    for label, predicted, num_confused in most_frequent_mistake_by_class(counts):
        row = {field: values[label] for field, values in scores._asdict().items()}
        row["interval"] = wilson(int(counts[label, label]), int(scores.support[label]))
        row.update(name=names[label], confused_with=names[predicted], num_confused=num_confused)
        rows.append(row)
    return sorted(rows, key=lambda row: row["recall"])


def images(run: RunHistory, predictions: SplitPredictions | str) -> dict[str, Any]:
    """The worst mistakes and the least certain predictions, or why they are missing."""
    if isinstance(predictions, str):
        return {"missing": predictions}
    shown_step = run.checkpoint.step if run.checkpoint else None
    table = predictions.predictions
    return {
        "missing": "",
        "other_images": not predictions.same_images,
        "other_step": shown_step if shown_step != run.best.step else None,
        "has_maps": predictions.heatmaps is not None,
        "worst": [
            {**_picture(predictions, p), "map": _map(predictions, p)}
            for p in table.worst(MAX_IMAGES)
        ],
        "uncertain": [_picture(predictions, p) for p in table.least_certain(MAX_IMAGES)],
    }


def _picture(predictions: SplitPredictions, prediction: Prediction) -> dict[str, Any]:
    classes, split = predictions.classes, predictions.split
    return {
        "source": _data_uri(_thumbnail(split, prediction.index), "jpeg", quality=70),
        "path": split.paths[prediction.index],
        "label": classes[prediction.label],
        "predicted": classes[prediction.predicted],
        "is_correct": prediction.label == prediction.predicted,
        "label_probability": prediction.p_label,
        "probability": prediction.p_predicted,
    }


def _map(predictions: SplitPredictions, prediction: Prediction) -> str | None:
    """The class-activation map of the predicted class, if there is one."""
    pixels = (predictions.heatmaps or {}).get(prediction.index)
    if pixels is None:
        return None
    image = Image.fromarray(pixels)
    image.thumbnail((2 * THUMBNAIL_PX, 2 * THUMBNAIL_PX))
    return _data_uri(image, "jpeg", quality=70)


def _thumbnail(split: Split, index: int) -> Image.Image:
    """An image of twice THUMBNAIL_PX, for high-resolution screens; gray if it cannot be read."""
    try:
        image = Image.fromarray(decode(split.read(index)))
    except (CorruptImage, OSError):
        image = Image.new("RGB", (THUMBNAIL_PX, THUMBNAIL_PX), "gray")
    image.thumbnail((2 * THUMBNAIL_PX, 2 * THUMBNAIL_PX))
    return image


def _data_uri(image: Image.Image, image_format: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, image_format, optimize=True, **options)
    return f"data:image/{image_format};base64,{base64.b64encode(file.getvalue()).decode()}"


def speed(run: RunHistory) -> dict[str, Any]:
    """The share of waiting, charts, and a row of each rank: the slowest ones if there are many."""
    ranks = run.rank_times()
    slowest = sorted(ranks, key=lambda rank: -rank.step_s)[:MAX_RANKS]
    is_recorded = run.images_per_s is not None and run.data_wait_share is not None
    lines = {
        "images per second, in training steps": _line(run, "images_per_s", charts.COLORS[1]),
        "share of time waiting for images": _line(run, "data_wait_share", charts.COLORS[0]),
    }
    shown = lines if is_recorded else {}
    return {
        "is_recorded": is_recorded,
        "charts": [charts.by_epoch(title, [shown[title]], from_zero=True) for title in shown],
        "rank_parts": RANK_PARTS,
        "ranks": [(rank, _time_shares(rank)) for rank in ranks if rank in slowest],
        "num_ranks": len(ranks),
    }


def _time_shares(rank: RankTimes) -> list[float]:
    """Of the time of the steps, 0..1, in the order of RANK_PARTS."""
    times_s = rank.data_s, rank.rest_s, rank.others_s
    return [time_s / max(sum(times_s), 1e-9) for time_s in times_s]


def settings(run: RunHistory) -> dict[str, Any]:
    changed = run.changed_settings()
    return {
        "changed": [(name, value, DEFAULTS.get(name)) for name, value in changed.items()],
        "unchanged": {k: v for k, v in run.settings.items() if k not in changed},
        "versions": {
            name.replace("version of ", ""): value
            for name, value in run.facts.items()
            if value and (name.startswith("version") or name.endswith(" images"))
        },
    }
