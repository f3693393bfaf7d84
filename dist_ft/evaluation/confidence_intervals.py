"""Between which bounds a figure lies that was measured on a sample of images: 95 % intervals.

They treat the images as drawn one by one, and say nothing of the training's own chances.
"""

from __future__ import annotations

import math
from typing import Callable

import numpy as np
from scipy import stats

SURE = 0.95
Z = float(stats.norm.ppf((1 + SURE) / 2))
NUM_DRAWS = 1000  # of the bootstrap


def wilson(correct: int, num_images: int) -> tuple[float, float]:
    """The interval of a share, 0..1: all of it where there are no images.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference", J. Am.
    Stat. Assoc. 22, without a correction for continuity. A bootstrap of a share comes to nearly the
    same, but to an interval of no width where all images are right.
    """
    if not num_images:
        return 0.0, 1.0
    share, square = correct / num_images, Z * Z / num_images
    middle = share + square / 2
    half = Z * math.sqrt(share * (1 - share) / num_images + square / num_images / 4)
    low, high = (middle - half) / (1 + square), (middle + half) / (1 + square)
    return max(0.0, low), min(1.0, high)


def bootstrap(
    figures: Callable[[np.ndarray], np.ndarray], num_images: int, num_draws: int = NUM_DRAWS
) -> np.ndarray:
    """The intervals of any figures, (figures, 2): the lower ends, and the upper ones.

    figures: of weights, (num_images,), how often each image is in a sample; it returns (figures,).
    Images are drawn again, with replacement, always the same ones for one number of them. The ends
    are the draws' bias-corrected percentiles (Efron 1981, "Nonparametric standard errors and
    confidence intervals", Can. J. Stat. 9), since some figures, as a calibration error, come out
    larger of any smaller sample; they are moved outwards where the figure itself is beyond them.
    """
    whole = figures(np.ones(num_images))
    if not num_images:
        return np.stack([whole, whole], axis=1)
    random = np.random.default_rng(0)
    samples = (random.integers(0, num_images, num_images) for _ in range(num_draws))
    draws = np.stack([figures(np.bincount(s, minlength=num_images)) for s in samples])
    below = (draws < whole).mean(axis=0) + (draws == whole).mean(axis=0) / 2
    bias = stats.norm.ppf(np.clip(below, 0.5 / num_draws, 1 - 0.5 / num_draws))
    ends = stats.norm.cdf(2 * bias[:, None] + [-Z, Z])
    found = np.array([np.quantile(own, end) for own, end in zip(draws.T, ends)])
    return np.stack([np.minimum(found[:, 0], whole), np.maximum(found[:, 1], whole)], axis=1)
