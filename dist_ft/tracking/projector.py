"""Test images as TensorBoard's projector shows them: points in the space of their features."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Sequence

import cv2
import numpy as np

from dist_ft import files
from dist_ft.data.dataset import Dataset
from dist_ft.data.rank_batches import load_test_image
from dist_ft.data.transforms import InputSpec
from dist_ft.evaluation.observer import Point
from dist_ft.text import on_one_line

THUMBNAIL_PX = 48  # a side
SIDES = THUMBNAIL_PX, THUMBNAIL_PX
CONFIG = "projector_config.pbtxt"  # where TensorBoard looks for it
COLUMNS = ("class", "taken for", "right", "probability", "file")


class Cloud(NamedTuple):
    """Points of all ranks in the order of their images, and a thumbnail of each."""

    points: list[Point]
    thumbnails: np.ndarray  # (n, THUMBNAIL_PX, THUMBNAIL_PX, 3) uint8 RGB


def gather(
    points: Sequence[Point], folder: Dataset, views: InputSpec, num_workers: int, world: Any
) -> Cloud:
    """points: this rank's, whose images it reads; all ranks call it, and get the same."""

    def thumbnail(point: Point) -> np.ndarray:
        pixels = load_test_image(folder.test, point.guess.index, views)
        return cv2.resize(pixels, SIDES, interpolation=cv2.INTER_AREA)

    world.heartbeat("thumbnails of test images")
    with world.raise_on_all_ranks(), ThreadPoolExecutor(num_workers) as workers:
        mine = list(zip(points, workers.map(thumbnail, points)))
    everyones = [pair for theirs in world.gather(mine) for pair in theirs]
    everyones.sort(key=lambda pair: pair[0].guess.index)
    thumbnails = np.array([thumbnail for _, thumbnail in everyones], np.uint8)
    return Cloud([point for point, _ in everyones], thumbnails.reshape(-1, *SIDES, 3))


def write(cloud: Cloud, place: Path, folder: Dataset) -> None:
    """Into a folder of TensorBoard's. Raises UserError where it cannot be written."""
    rows = [point.features for point in cloud.points]
    with files.output_file(place / "projector" / "features.tsv", "--out") as file:
        file.write_text("".join("\t".join(f"{x:.5g}" for x in row) + "\n" for row in rows))
    with files.output_file(place / "projector" / "names.tsv", "--out") as file:
        file.write_text(_names(cloud.points, folder), encoding="utf-8")
    with files.output_file(place / "projector" / "thumbnails.png", "--out") as file:
        file.write_bytes(cv2.imencode(".png", _sheet(cloud.thumbnails)[..., ::-1])[1].tobytes())
    with files.output_file(place / CONFIG, "--out") as file:
        file.write_text(
            'embeddings {\n  tensor_name: "test images"\n'
            '  tensor_path: "projector/features.tsv"\n'
            '  metadata_path: "projector/names.tsv"\n'
            '  sprite {\n    image_path: "projector/thumbnails.png"\n'
            f"    single_image_dim: {THUMBNAIL_PX}\n    single_image_dim: {THUMBNAIL_PX}\n"
            "  }\n}\n"
        )


def _names(points: Sequence[Point], folder: Dataset) -> str:
    """A line for each point below a line of columns; a tab in a name would begin another column."""
    lines = [COLUMNS]
    for guess, _ in points:
        predicted, right = folder.classes[guess.predicted], guess.predicted == guess.label
        own, file = folder.classes[guess.label], folder.test.paths[guess.index]
        lines.append((own, predicted, "yes" if right else "no", f"{guess.p_taken:.3f}", file))
    return "".join("\t".join(map(on_one_line, line)) + "\n" for line in lines)


def _sheet(thumbnails: np.ndarray) -> np.ndarray:
    """One square picture, filled row by row, as the projector takes it apart."""
    num, side = thumbnails.shape[:2]
    columns = int(np.ceil(np.sqrt(num)))
    sheet = np.zeros((columns * columns, side, side, 3), np.uint8)
    sheet[:num] = thumbnails
    rows = sheet.reshape(columns, columns, side, side, 3).transpose(0, 2, 1, 3, 4)
    return rows.reshape(columns * side, columns * side, 3)
