"""Tolerances for float32 results, derived from the number of terms that are summed."""

from __future__ import annotations

import numpy as np

EPSILON = float(np.finfo(np.float32).eps)


def assert_close(actual, expected, num_terms: int) -> None:
    """Compares float32 results that may differ in the order of a sum of `num_terms` terms.

    Each addition rounds by at most EPSILON / 2 of the largest partial sum, in both results.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    atol = num_terms * EPSILON * np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)
