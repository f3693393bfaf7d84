"""Draws a class-activation map over its image."""

from __future__ import annotations

import cv2
import numpy as np

OPACITY = 0.5  # of the colors


def overlay(pixels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(side, side, 3) uint8: an image, from blue for its lowest score to red for its highest.

    pixels: (side, side, 3) uint8 RGB; scores: (k, k), of places of the image.
    """
    side = pixels.shape[0]
    levels = 255 * (scores - scores.min()) / max(float(np.ptp(scores)), 1e-9)
    smooth = cv2.resize(levels.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    colors = cv2.applyColorMap(smooth.astype(np.uint8), cv2.COLORMAP_TURBO)
    return cv2.addWeighted(pixels, 1 - OPACITY, colors[..., ::-1], OPACITY, 0)
