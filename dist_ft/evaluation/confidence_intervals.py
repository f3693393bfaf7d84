"""95 % confidence intervals of scores that were measured on a sample of images.

They assume that the images were drawn independently, and do not cover the randomness of training.
"""

from __future__ import annotations

import math
from typing import Callable

import numpy as np
from scipy import stats

LEVEL = 0.95
Z = float(stats.norm.ppf((1 + LEVEL) / 2))
NUM_RESAMPLES = 1000


def wilson(correct: int, num_images: int) -> tuple[float, float]:
    """The interval of a proportion, 0..1; (0, 1) if there are no images.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference", J. Am.
    Stat. Assoc. 22, without continuity correction. Unlike the bootstrap's, the interval has a
    width even if all images are correct.
    """
    if not num_images:
        return 0.0, 1.0
    # scipy's binomtest(...).proportion_ci computes a p-value as well, which takes milliseconds.
    share, z2 = correct / num_images, Z * Z / num_images
    center = share + z2 / 2
    half_width = Z * math.sqrt(share * (1 - share) / num_images + z2 / num_images / 4)
    low, high = (center - half_width) / (1 + z2), (center + half_width) / (1 + z2)
    return max(0.0, low), min(1.0, high)


def bootstrap(
    statistics: Callable[[np.ndarray], np.ndarray],
    num_images: int,
    num_resamples: int = NUM_RESAMPLES,
) -> np.ndarray:
    """(statistics, 2): the lower and upper ends of the intervals of any statistics.

    statistics: maps weights, (num_images,), how often each image is in a sample, to (statistics,).
    The intervals are bias-corrected percentiles (Efron 1981, "Nonparametric standard errors and
    confidence intervals", Can. J. Stat. 9), since some statistics, such as a calibration error,
    are larger on every resample. They always include the statistic of the images themselves. The
    resamples depend on num_images only.
    """
    # scipy.stats.bootstrap has no bias correction without a jackknife, which takes n evaluations.
    observed = statistics(np.ones(num_images))
    if not num_images:
        return np.stack([observed, observed], axis=1)
    random = np.random.default_rng(0)
    samples = (random.integers(0, num_images, num_images) for _ in range(num_resamples))
    values = np.stack([statistics(np.bincount(s, minlength=num_images)) for s in samples])
    share_below = (values < observed).mean(axis=0) + (values == observed).mean(axis=0) / 2
    bias = stats.norm.ppf(np.clip(share_below, 0.5 / num_resamples, 1 - 0.5 / num_resamples))
    quantiles = stats.norm.cdf(2 * bias[:, None] + [-Z, Z])
    ends = np.array([np.quantile(v, q) for v, q in zip(values.T, quantiles)])
    return np.stack([np.minimum(ends[:, 0], observed), np.maximum(ends[:, 1], observed)], axis=1)
