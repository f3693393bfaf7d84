"""How alike two pictures look: a sketch of each, and the pairs of similar ones among very many.

A sketch holds the low frequencies of a picture's luminance, its discrete cosine transform, as a
perceptual hash does (Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash
Functions", section 3.2.1). The hash keeps their signs; kept as numbers they are compared without
loss, and as matrix products all pairs of 100,000 pictures take half a minute of processor time.
The amplitudes of natural pictures fall with the frequency (Field 1987, "Relations between the
statistics of natural images and the response properties of cortical cells"), so each is multiplied
by it: all get the same say.

Encoded anew, resized, stretched, brightened, and mirrored left to right a picture stays similar to
itself; a crop, a rotation, and another shot of the same dish do not.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple

import cv2
import numpy as np

SIDE = 32  # px of the square that a picture is shrunk to
NUM_FINE, NUM_COARSE = 16, 8  # frequencies each way that a sketch has; that candidates share
SYMMETRIC = 0.005  # of a correlation: less than that comes of the left side being like the right
PLAIN = 1.5  # of 255: less standard deviation than that, and there is nothing to compare
TILE = (1024, 4096)  # pictures against pictures at a time: 16 MB of products
VERIFIED = 1 << 16  # candidates at a time: 64 MB of sketches

_X = np.arange(SIDE) + 0.5
_COSINES = np.cos(np.pi / SIDE * np.outer(np.arange(NUM_FINE), _X)).astype(np.float32)
_ROW, _COLUMN = (index.ravel() for index in np.mgrid[:NUM_FINE, :NUM_FINE])
_FREQUENCY = np.hypot(_ROW, _COLUMN).astype(np.float32).reshape(NUM_FINE, NUM_FINE)
_IS_COARSE = (_ROW < NUM_COARSE) & (_COLUMN < NUM_COARSE)
_IS_ODD = _COLUMN % 2 == 1  # the cosines that change sign when the picture is mirrored


class Pairs(NamedTuple):
    """Similar pictures: (n,) each, first < second, unordered."""

    first: np.ndarray  # int64
    second: np.ndarray  # int64


def sketch(pixels: np.ndarray) -> np.ndarray:
    """(NUM_FINE ** 2,) float32 of norm 1, or of zeros for a plain picture, from (H, W, 3) RGB."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    # Averages where it shrinks; a picture that is smaller is made larger first.
    kind = cv2.INTER_AREA if min(grey.shape) >= SIDE else cv2.INTER_LINEAR
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=kind).astype(np.float32)
    if small.std() < PLAIN:
        return np.zeros(NUM_FINE**2, np.float32)
    weighted = (_COSINES @ small @ _COSINES.T * _FREQUENCY).ravel()
    return weighted / np.linalg.norm(weighted)


def similarity(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How alike are rows of two arrays of sketches: (n,) correlations, -1..1; and (n,) bool, where
    it is the mirrored picture that is, which of a symmetric one cannot be said."""
    product = a * b
    odd = product[..., _IS_ODD].sum(-1)
    return product.sum(-1) - odd + np.abs(odd), odd < -SYMMETRIC


def similar_pairs(sketches: np.ndarray, least: float) -> Pairs:
    """Pairs of rows whose similarity is at least `least`, of (n, NUM_FINE ** 2) sketches.

    Time grows with n squared, 33 s of processor time for 100,000; memory with n and the pairs.
    Candidates are the pairs whose coarse frequencies alone are that similar, as those of pictures
    that are alike are: of a copy they are the best kept.
    """
    found = [
        (first[alike], second[alike])
        for first, second in _candidates(sketches, least)
        for alike in [similarity(sketches[first], sketches[second])[0] >= least]
    ]
    if not found:
        return Pairs(np.empty(0, np.int64), np.empty(0, np.int64))
    return Pairs(*map(np.concatenate, zip(*found)))


def _candidates(sketches: np.ndarray, least: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Up to VERIFIED at a time."""
    coarse = sketches * _IS_COARSE
    coarse /= np.maximum(np.linalg.norm(coarse, axis=1, keepdims=True), 1e-9)
    # A mirrored picture's odd part is negative: with |odd| both ways are compared at once.
    even, odd = coarse[:, _IS_COARSE & ~_IS_ODD], coarse[:, _IS_COARSE & _IS_ODD]
    for top in range(0, len(sketches), TILE[0]):
        rows = slice(top, top + TILE[0])
        for left in range(top, len(sketches), TILE[1]):
            columns = slice(left, left + TILE[1])
            near = odd[rows] @ odd[columns].T
            np.abs(near, out=near)
            near += even[rows] @ even[columns].T
            first, second = np.nonzero(near >= least)
            first, second = first + top, second + left
            once = first < second
            first, second = first[once], second[once]
            for begin in range(0, len(first), VERIFIED):
                yield first[begin : begin + VERIFIED], second[begin : begin + VERIFIED]
