"""Operations of Pillow on uint8 pixels, done by OpenCV, which takes a fraction of the time."""

from __future__ import annotations

import cv2
import numpy as np

from dist_ft.data.image import BLANK

VALUES = np.repeat(np.arange(256), 3).reshape(256, 3)  # of each channel
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow's mode "L"
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13  # Pillow's ImageFilter.SMOOTH


def adjust(
    pixels: np.ndarray, brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0
) -> np.ndarray:
    """Pillow's ImageEnhance with these factors, but rounded and clipped only once.

    Without clipping the order is irrelevant: contrast moves colors away from a gray, which
    saturation does not change and brightness scales with the rest.
    """
    factor = brightness * contrast
    offset = brightness * (1 - contrast) * float(LUMA @ cv2.mean(pixels)[:3])
    if saturation == 1:  # of a diagonal matrix, OpenCV's product is slow
        return cv2.addWeighted(pixels, factor, pixels, 0, offset)
    matrix = np.full((3, 4), offset)
    matrix[:, :3] = factor * (saturation * np.eye(3) + (1 - saturation) * LUMA)
    return cv2.transform(pixels, matrix)


def sharpen(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Pillow's ImageEnhance.Sharpness, but for the pixels at the border."""
    kernel = (1 - factor) * SMOOTH
    kernel[1, 1] += factor
    return cv2.filter2D(pixels, -1, kernel)


def warp(pixels: np.ndarray, matrix: list[list[float]] | np.ndarray) -> np.ndarray:
    """Bilinear; what is outside of the image becomes BLANK, which the network sees as zeros.

    matrix: (2, 3) from places of the result to places of the image, px from the upper left corner.
    """
    matrix = np.array(matrix, float)
    matrix[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5  # OpenCV counts from the first px's center
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(pixels, matrix, pixels.shape[1::-1], flags=flags, borderValue=BLANK)


def rotate(pixels: np.ndarray, angle: float) -> np.ndarray:
    """Counterclockwise around the center; angle: degrees."""
    height, width = pixels.shape[:2]
    return warp(pixels, cv2.getRotationMatrix2D((width / 2, height / 2), -angle, 1))


def posterize(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Keeps the highest bits of each value, as Pillow's ImageOps.posterize."""
    return pixels & np.uint8(256 - 2 ** (8 - bits))


def solarize(pixels: np.ndarray, threshold: float) -> np.ndarray:
    """Inverts the values from the threshold on, as Pillow's ImageOps.solarize."""
    return _look_up(pixels, np.where(threshold > VALUES, VALUES, 255 - VALUES))


def auto_contrast(pixels: np.ndarray) -> np.ndarray:
    """Stretches the values of each channel to 0..255, as Pillow's ImageOps.autocontrast."""
    counts = _histograms(pixels)
    lowest, highest = _lowest(counts), 255 - _lowest(counts[::-1])
    scale = 255 / np.maximum(highest - lowest, 1)
    return _look_up(pixels, np.where(highest > lowest, VALUES * scale - lowest * scale, VALUES))


def equalize(pixels: np.ndarray) -> np.ndarray:
    """Makes all values of each channel about equally frequent, as Pillow's ImageOps.equalize."""
    counts = _histograms(pixels)
    num_highest = np.take_along_axis(counts[::-1], _lowest(counts[::-1])[None], axis=0)
    step = (counts.sum(axis=0) - num_highest) // 255
    values = (step // 2 + counts.cumsum(axis=0) - counts) // np.maximum(step, 1)
    return _look_up(pixels, np.where(step > 0, values, VALUES))


def _histograms(pixels: np.ndarray) -> np.ndarray:
    """(256, 3) int: how often each value occurs in each channel."""
    counts = [cv2.calcHist([pixels], [channel], None, [256], [0, 256]) for channel in range(3)]
    return np.hstack(counts).astype(int)


def _lowest(counts: np.ndarray) -> np.ndarray:
    """(3,) int: the first row of (256, 3) in which a channel's count is not 0."""
    return (counts > 0).argmax(axis=0)


def _look_up(pixels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """values: (256, 3), which replace those of each channel."""
    return cv2.LUT(pixels, np.clip(values, 0, 255).astype(np.uint8)[None])
