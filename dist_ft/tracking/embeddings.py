"""Test images in TensorBoard's projector: points in the feature space of the network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from tensorboardX import SummaryWriter

from dist_ft.data.dataset import Dataset
from dist_ft.data.rank_batches import load_test_image
from dist_ft.data.transforms import InputSpec
from dist_ft.evaluation.evaluator import Evaluation
from dist_ft.evaluation.predictions import Prediction
from dist_ft.text import on_one_line

THUMBNAIL_PX = 48
COLUMNS = ["class", "predicted", "correct", "probability", "file"]


def add(
    writer: SummaryWriter, evaluation: Evaluation, dataset: Dataset, spec: InputSpec, step: int
) -> None:
    """Adds the features of test images, with a thumbnail and a row of COLUMNS for each."""

    def thumbnail(index: int) -> np.ndarray:
        pixels = load_test_image(dataset.test, index, spec)
        size = THUMBNAIL_PX, THUMBNAIL_PX
        return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)

    indices = evaluation.features.indices
    with ThreadPoolExecutor() as threads:
        thumbnails = np.stack(list(threads.map(thumbnail, indices.tolist())))
    writer.add_embedding(
        evaluation.features.features,
        metadata=[_row(p, dataset) for p in evaluation.predictions.at(indices)],
        label_img=thumbnails.transpose(0, 3, 1, 2) / np.float32(255),
        global_step=step,
        tag="test_images",
        metadata_header=COLUMNS,
    )


def _row(prediction: Prediction, dataset: Dataset) -> list[str]:
    return [
        on_one_line(dataset.classes[prediction.label]),  # a tab would start another column
        on_one_line(dataset.classes[prediction.predicted]),
        "yes" if prediction.predicted == prediction.label else "no",
        f"{prediction.p_predicted:.3f}",
        on_one_line(dataset.test.paths[prediction.index]),
    ]
