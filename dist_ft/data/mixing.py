"""Mixes pairs of training images: mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019).

The two images of a pair are mixed with each other, as in timm's pair mode, so that both remain half
of the batch's content and a pair can be mixed wherever both of its images are.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from scipy import special

NUM_DRAWS = 4  # random numbers of a pair: the method, the share, and the center of the box


def mix_pair(
    first: np.ndarray, second: np.ndarray, mixup: float, cutmix: float, draws: np.ndarray
) -> float:
    """Mixes two (side, side, 3) uint8 images in place; returns the share of the partner in each.

    mixup, cutmix: parameters of the symmetric Beta distribution of the share, 0 for off; if both
    are on, each is chosen half of the time. draws: (NUM_DRAWS,) in [0, 1), the only source of
    randomness.
    """
    method, share_draw, *center = draws.tolist()
    use_cutmix = cutmix > 0 and (mixup == 0 or method < 0.5)
    alpha = cutmix if use_cutmix else mixup
    share = float(special.betaincinv(alpha, alpha, share_draw))
    if use_cutmix:
        return _exchange_box(first, second, share, center)
    original = first.copy()
    cv2.addWeighted(first, 1 - share, second, share, 0, dst=first)
    cv2.addWeighted(second, 1 - share, original, share, 0, dst=second)
    return share


def _exchange_box(
    first: np.ndarray, second: np.ndarray, share: float, center: list[float]
) -> float:
    """Exchanges a box of about this share of the pixels, cut off at the border; returns its share.

    center: where it is, from 0 to 1 of the height and of the width.
    """
    side = len(first)
    half = side * math.sqrt(share) / 2
    rows, columns = (
        slice(max(0, round(side * c - half)), min(side, round(side * c + half))) for c in center
    )
    box = first[rows, columns].copy()
    first[rows, columns] = second[rows, columns]
    second[rows, columns] = box
    return box.size / first.size
