"""The decoders that are compared: each turns encoded images into pixels, and into augmented views.

Each imports its own package when it is made; who lacks it raises ImportError or OSError.
"""

from __future__ import annotations

import io
from typing import NamedTuple, Sequence

import cv2
import numpy as np

SIDE = 224  # px of a view
EXACT, FAST = {}, {"fastdct": True, "fastupsample": True}  # libjpeg-turbo's
BATCH = 32  # images at once, for those that take batches only


class Crop(NamedTuple):
    """What of an image a view shows."""

    left: int
    top: int
    width: int
    height: int
    is_flipped: bool


def resized(pixels: np.ndarray, is_flipped: bool) -> np.ndarray:
    pixels = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return cv2.flip(pixels, 1) if is_flipped else pixels


class Codec:
    """A decoder that takes one image after another; an array is its pixels."""

    name = ""

    def decode(self, data: bytes):
        raise NotImplementedError

    def view(self, data: bytes, crop: Crop):
        left, top, width, height, is_flipped = crop
        pixels = self.decode(data)[top : top + height, left : left + width]
        return resized(pixels, is_flipped)

    def decode_all(self, files: Sequence[bytes]) -> int:
        """Decodes them; returns how many."""
        for data in files:
            self.decode(data)
        return len(files)

    def view_all(self, files: Sequence[bytes], crops: Sequence[Crop]) -> int:
        """Makes a view of each; returns how many."""
        for data, crop in zip(files, crops):
            self.view(data, crop)
        return len(files)


class SimpleJpeg(Codec):
    name = "simplejpeg, exact"
    settings = EXACT

    def __init__(self):
        import simplejpeg

        self._decode = simplejpeg.decode_jpeg

    def decode(self, data):
        return self._decode(data, "RGB", **self.settings)


class FastSimpleJpeg(SimpleJpeg):
    name = "simplejpeg, fast"
    settings = FAST


class ReusedSimpleJpeg(SimpleJpeg):
    name = "simplejpeg, fast, into a reused buffer"

    def __init__(self):
        super().__init__()
        buffer = np.empty(64 * 2**20, np.uint8)
        self.settings = {**FAST, "buffer": buffer}


class DistFt(Codec):
    name = "dist_ft"

    def __init__(self):
        from dist_ft.data import decoding

        self._picture = decoding.open_image

    def decode(self, data):
        return self._picture(data).pixels()

    def view(self, data, crop):
        return resized(self._picture(data).crop(crop[:4], SIDE), crop.is_flipped)


class TurboJpeg3(Codec):
    name = "libturbojpeg 3, fast, of a region"

    def __init__(self):
        from benchmarks.turbojpeg3 import Decoder

        self._decoder = Decoder()

    def decode(self, data):
        return self._decoder.decode(data)

    def view(self, data, crop):
        return resized(self._decoder.decode(data, crop[:4]), crop.is_flipped)


class OpenCv(Codec):
    name = "OpenCV"

    def decode(self, data):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


class Pillow(Codec):
    name = "Pillow"

    def __init__(self):
        from PIL import Image

        self._image = Image

    def decode(self, data):
        return np.asarray(self._image.open(io.BytesIO(data)).convert("RGB"))

    def view(self, data, crop):
        left, top, width, height, is_flipped = crop
        picture = self._image.open(io.BytesIO(data)).convert("RGB")
        box = left, top, left + width, top + height
        picture = picture.resize((SIDE, SIDE), self._image.BILINEAR, box=box)
        if is_flipped:
            picture = picture.transpose(self._image.FLIP_LEFT_RIGHT)
        return np.asarray(picture)


class MxnetImdecode(Codec):
    name = "MXNet imdecode"

    def __init__(self):
        import mxnet

        self._mx = mxnet

    def decode(self, data):
        pixels = self._mx.image.imdecode(data)
        pixels.wait_to_read()
        return pixels

    def view(self, data, crop):
        left, top, width, height, is_flipped = crop
        pixels = self._mx.image.imdecode(data)
        bilinear = 1
        pixels = self._mx.image.fixed_crop(pixels, left, top, width, height, (SIDE, SIDE), bilinear)
        pixels = pixels.flip(axis=1) if is_flipped else pixels
        pixels.wait_to_read()
        return pixels


class MxnetRecordIter(Codec):
    """It makes views only, of crops of its own, from an archive that dist_ft.pack writes."""

    name = "MXNet ImageRecordIter"

    def __init__(self):
        import mxnet

        self._mx = mxnet
        self.archive = ""  # to be named before it is used

    def decode_all(self, files):
        return 0

    def view_all(self, files, crops):
        images = self._mx.io.ImageRecordIter(
            path_imgrec=self.archive,
            path_imgidx=self.archive.replace(".rec", ".idx"),
            data_shape=(3, SIDE, SIDE),
            batch_size=BATCH,
            preprocess_threads=1,
            random_resized_crop=True,
            min_random_area=0.08,
            max_random_area=1,
            min_aspect_ratio=3 / 4,
            max_aspect_ratio=4 / 3,
            rand_mirror=True,
            dtype="uint8",
            round_batch=False,
        )
        num_images = 0
        for batch in images:
            batch.data[0].wait_to_read()
            num_images += BATCH - batch.pad
        return num_images
