"""libturbojpeg 3, called directly: it decodes a region of a JPEG, which its Python packages do not
offer. turbojpeg.h of libjpeg-turbo 3 documents the functions."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Tuple

import numpy as np

DECOMPRESS = 1  # TJINIT_DECOMPRESS
SUBSAMPLING = 4  # TJPARAM_SUBSAMP
JPEG_WIDTH, JPEG_HEIGHT = 5, 6  # TJPARAM_JPEGWIDTH, TJPARAM_JPEGHEIGHT
FAST_UPSAMPLE, FAST_DCT = 9, 10  # TJPARAM_FASTUPSAMPLE, TJPARAM_FASTDCT
RGB = 0  # TJPF_RGB
MCU_WIDTHS = {0: 8, 1: 16, 2: 16, 3: 8, 4: 8, 5: 32, 6: 8}  # px, by TJSAMP_*

Box = Tuple[int, int, int, int]  # left, top, width, height


class Region(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("x", "y", "w", "h")]


class Decoder:
    """Raises OSError where there is no libturbojpeg, or an older one."""

    def __init__(self, path: str | None = None):
        path = path or ctypes.util.find_library("turbojpeg")
        if not path:
            raise OSError("no libturbojpeg is installed")
        self._lib = ctypes.CDLL(path)
        if not hasattr(self._lib, "tj3Init"):
            raise OSError(f"{path} is of libjpeg-turbo 2, which decodes no regions")
        self._lib.tj3Init.restype = ctypes.c_void_p
        self._lib.tj3GetErrorStr.restype = ctypes.c_char_p
        self._handle = ctypes.c_void_p(self._lib.tj3Init(DECOMPRESS))
        for parameter in (FAST_UPSAMPLE, FAST_DCT):
            self._call("tj3Set", parameter, 1)
        self._pixels = np.empty(0, np.uint8)

    def decode(self, data: bytes, box: Box | None = None) -> np.ndarray:
        """(height, width, 3) of a region, or of the whole image, RGB and valid until the next call.

        Raises ValueError.
        """
        length = ctypes.c_size_t(len(data))
        self._call("tj3DecompressHeader", data, length)
        left, top, width, height = box or (0, 0, self._get(JPEG_WIDTH), self._get(JPEG_HEIGHT))
        mcu_width = MCU_WIDTHS[self._get(SUBSAMPLING)]
        start = left - left % mcu_width  # a region begins where a block does
        wide = left + width - start
        self._call("tj3SetCroppingRegion", Region(start, top, wide, height))
        size = height * wide * 3
        if self._pixels.size < size:
            self._pixels = np.empty(size, np.uint8)
        to = self._pixels.ctypes.data_as(ctypes.c_void_p)
        self._call("tj3Decompress8", data, length, to, ctypes.c_int(0), RGB)
        return self._pixels[:size].reshape(height, wide, 3)[:, left - start :]

    def _get(self, parameter: int) -> int:
        return self._lib.tj3Get(self._handle, parameter)

    def _call(self, name: str, *words) -> None:
        if getattr(self._lib, name)(self._handle, *words):
            raise ValueError(self._lib.tj3GetErrorStr(self._handle).decode())
