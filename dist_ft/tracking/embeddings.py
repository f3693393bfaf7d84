"""Test images in TensorBoard's projector: points in the feature space of the network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Sequence

import cv2
import numpy as np
from tensorboardX import SummaryWriter

from dist_ft.data.dataset import Dataset
from dist_ft.data.rank_batches import load_test_image
from dist_ft.data.transforms import InputSpec
from dist_ft.evaluation.observer import Point
from dist_ft.text import on_one_line

THUMBNAIL_PX = 48
COLUMNS = ["class", "predicted", "correct", "probability", "file"]


def gather(points: Sequence[Point], world: Any) -> list[Point]:
    """The points of all ranks, ordered by image; all ranks call it and get the same list."""
    world.heartbeat("gathering the features of test images")
    gathered = [point for of_rank in world.gather(list(points)) for point in of_rank]
    return sorted(gathered, key=lambda point: point.guess.index)


def add(
    writer: SummaryWriter, points: Sequence[Point], dataset: Dataset, spec: InputSpec, step: int
) -> None:
    """Adds the features of test images, with a thumbnail and a row of COLUMNS for each."""

    def thumbnail(point: Point) -> np.ndarray:
        pixels = load_test_image(dataset.test, point.guess.index, spec)
        size = THUMBNAIL_PX, THUMBNAIL_PX
        return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)

    with ThreadPoolExecutor() as threads:
        thumbnails = np.stack(list(threads.map(thumbnail, points)))
    writer.add_embedding(
        np.stack([point.features for point in points]),
        metadata=[_row(point, dataset) for point in points],
        label_img=thumbnails.transpose(0, 3, 1, 2) / np.float32(255),
        global_step=step,
        tag="test_images",
        metadata_header=COLUMNS,
    )


def _row(point: Point, dataset: Dataset) -> list[str]:
    prediction = point.guess
    return [
        on_one_line(dataset.classes[prediction.label]),  # a tab would start another column
        on_one_line(dataset.classes[prediction.predicted]),
        "yes" if prediction.predicted == prediction.label else "no",
        f"{prediction.p_taken:.3f}",
        on_one_line(dataset.test.paths[prediction.index]),
    ]
