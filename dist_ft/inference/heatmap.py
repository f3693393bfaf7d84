"""Draws class-activation maps over their images."""

from __future__ import annotations

from typing import Dict, Sequence

import cv2
import mxnet as mx
import numpy as np

from dist_ft.data.dataset import Split
from dist_ft.data.rank_batches import load_test_image
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.evaluation.predictions import Prediction
from dist_ft.inference.outputs import Outputs
from dist_ft.inference.trained_model import TrainedModel

Heatmaps = Dict[int, np.ndarray]  # `overlay` by the image's position in its split

OPACITY = 0.5  # of the colors


def overlay(pixels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(side, side, 3) uint8: a gray image, from blue for its lowest score to red for its highest.

    pixels: (side, side, 3) uint8 RGB; scores: (k, k), of places of the image.
    """
    side = pixels.shape[0]
    levels = 255 * (scores - scores.min()) / max(float(np.ptp(scores)), 1e-9)
    smooth = cv2.resize(levels.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    colors = cv2.applyColorMap(smooth.astype(np.uint8), cv2.COLORMAP_TURBO)
    gray = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2BGR)
    blend = cv2.addWeighted(gray, 1 - OPACITY, colors, OPACITY, 0)
    return cv2.cvtColor(blend, cv2.COLOR_BGR2RGB)


def of_predictions(
    model: TrainedModel, split: Split, predictions: Sequence[Prediction], world: World
) -> Heatmaps | None:
    """The maps of the predicted classes; None if the network has no maps. All ranks call it."""
    outputs = Outputs(model, places=True)
    try:
        net = model.network(world, fused=True, outputs=outputs.graph)
    except UserError:
        return None
    if not predictions:
        return {}
    pixels = np.stack([load_test_image(split, p.index, model.spec) for p in predictions])
    output = net(mx.nd.from_numpy(pixels).as_in_context(world.ctx)).astype("float32")
    places = outputs.divide(output.asnumpy()).places
    return {
        p.index: overlay(image, of_classes[:, :, p.predicted])
        for p, image, of_classes in zip(predictions, pixels, places)
    }
