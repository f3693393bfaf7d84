"""Converts samples of more than 8 bits to 8."""

from __future__ import annotations

import numpy as np

from dist_ft.data.image import CorruptImage


def to_8_bits(samples: np.ndarray, white: int = 65535) -> np.ndarray:
    """Scales samples so that white becomes 255, and rounds them.

    samples: unsigned of any shape with values up to `white`; or floats, of which 1 is white. Raises
    CorruptImage if floats are not in 0..1.
    """
    if samples.dtype.kind == "f":
        lowest, highest = float(samples.min()), float(samples.max())
        if not (lowest >= 0 and highest <= 1):  # also if they are not numbers
            raise CorruptImage(
                f"floating-point samples from {lowest:g} to {highest:g}, but black is 0 and white"
                " is 1: scale them, or save the image with 8 or 16 bits per sample"
            )
        return np.rint(samples * 255).astype(np.uint8)
    table = np.rint(np.arange(white + 1) * (255 / white)).astype(np.uint8)
    return np.take(table, samples, mode="clip")
