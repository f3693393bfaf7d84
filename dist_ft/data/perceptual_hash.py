"""Perceptual hashes of pictures, and a search for all similar pairs.

A hash holds the low frequencies of the discrete cosine transform of a picture's luminance (Zauner
2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", section 3.2.1). Zauner
keeps their signs and compares by Hamming distance; here the numbers themselves are kept and
compared by cosine similarity, which loses nothing and is a matrix product. The amplitudes of
natural images fall with the frequency (Field 1987, "Relations between the statistics of natural
images and the response properties of cortical cells"), so each is multiplied by its frequency to
give all of them the same weight.

Re-encoded, resized, stretched, brightened or mirrored copies are similar to the original. Cropped
or rotated ones, and another photograph of the same object, are not.
"""

from __future__ import annotations

from typing import Iterator

import cv2
import numpy as np

SIDE = 32  # px of the square that a picture is reduced to
NUM_FREQUENCIES = 16  # in each direction, of a hash
NUM_COARSE = 8  # in each direction, of the prefilter in `similar_pairs`
MIN_STD = 1.5  # of 0..255: a picture of a lower standard deviation has nothing to compare
MIN_ODD = 0.005  # an odd part below it is noise: the picture is symmetric
TILE_ROWS, TILE_COLUMNS = 1024, 4096  # of the similarity matrix at a time: 16 MB
CANDIDATES_AT_A_TIME = 1 << 16  # 64 MB of hashes

_POSITION = np.arange(SIDE) + 0.5
_COSINES = np.cos(np.pi / SIDE * np.outer(np.arange(NUM_FREQUENCIES), _POSITION)).astype(np.float32)
_ROW, _COLUMN = np.mgrid[:NUM_FREQUENCIES, :NUM_FREQUENCIES]
_FREQUENCY = np.hypot(_ROW, _COLUMN).astype(np.float32)
_IS_COARSE = ((_ROW < NUM_COARSE) & (_COLUMN < NUM_COARSE)).ravel()
_IS_ODD = (_COLUMN % 2 == 1).ravel()  # coefficients whose sign changes if the picture is mirrored


def perceptual_hash(pixels: np.ndarray) -> np.ndarray:
    """(NUM_FREQUENCIES ** 2,) float32 of norm 1 for (H, W, 3) uint8 RGB; zeros if it is plain."""
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    # INTER_AREA averages when it shrinks, but repeats pixels when it enlarges.
    interpolation = cv2.INTER_AREA if min(gray.shape) >= SIDE else cv2.INTER_LINEAR
    small = cv2.resize(gray, (SIDE, SIDE), interpolation=interpolation).astype(np.float32)
    if small.std() < MIN_STD:
        return np.zeros(NUM_FREQUENCIES**2, np.float32)
    coefficients = (_COSINES @ small @ _COSINES.T * _FREQUENCY).ravel()
    return coefficients / np.linalg.norm(coefficients)


def similarity(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compares the last axis of two arrays of hashes, also with one of the pictures mirrored.

    Returns the larger cosine similarity, -1..1, and whether it is the one of the mirrored picture,
    which is False for a symmetric picture.
    """
    product = a * b
    odd = product[..., _IS_ODD].sum(-1)
    return product.sum(-1) - odd + np.abs(odd), odd < -MIN_ODD


def similar_pairs(hashes: np.ndarray, min_similarity: float) -> np.ndarray:
    """All pairs of rows of (n, NUM_FREQUENCIES ** 2) hashes whose similarity is high enough.

    Returns (2, number of pairs) int64 indices, the smaller one first, in no particular order. Time
    grows with n squared: 33 s of CPU time for 100,000 pictures. Memory grows with n and the number
    of pairs. Pairs are prefiltered by their coarse frequencies, which copies preserve best.
    """
    found = [np.empty((2, 0), np.int64)]
    for pairs in _candidates(hashes, min_similarity):
        is_similar = similarity(hashes[pairs[0]], hashes[pairs[1]])[0] >= min_similarity
        found.append(pairs[:, is_similar])
    return np.concatenate(found, axis=1)


def _candidates(hashes: np.ndarray, min_similarity: float) -> Iterator[np.ndarray]:
    """Pairs whose coarse frequencies are similar enough, in arrays of limited size."""
    coarse = hashes * _IS_COARSE
    coarse /= np.maximum(np.linalg.norm(coarse, axis=1, keepdims=True), 1e-9)
    # Mirroring negates the odd part, so the larger of both similarities is even + |odd|.
    even, odd = coarse[:, _IS_COARSE & ~_IS_ODD], coarse[:, _IS_COARSE & _IS_ODD]
    for top in range(0, len(hashes), TILE_ROWS):
        rows = slice(top, top + TILE_ROWS)
        for left in range(top, len(hashes), TILE_COLUMNS):
            columns = slice(left, left + TILE_COLUMNS)
            tile = odd[rows] @ odd[columns].T
            np.abs(tile, out=tile)
            tile += even[rows] @ even[columns].T
            pairs = np.argwhere(tile >= min_similarity).T + [[top], [left]]
            pairs = pairs[:, pairs[0] < pairs[1]]  # each pair once
            for start in range(0, pairs.shape[1], CANDIDATES_AT_A_TIME):
                yield pairs[:, start : start + CANDIDATES_AT_A_TIME]
