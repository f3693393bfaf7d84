"""Recognizes HEIC and AVIF, the formats of phones, and loads what Pillow needs to read them."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

from dist_ft.data.image import CorruptImage

BRANDS = {  # in the file-type box that such a file starts with, by Pillow's name of the format
    "AVIF": {b"avif", b"avis"},
    "HEIF": {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1"},
}
MAX_BRANDS = 64


def format_of(data: bytes) -> str | None:
    """A key of BRANDS, or None for files of all other formats."""
    if data[4:8] != b"ftyp":
        return None
    box = data[8 : min(int.from_bytes(data[:4], "big"), 4 * MAX_BRANDS)]
    brands = {box[start : start + 4] for start in range(0, len(box), 4)}  # and a version
    return next((name for name, known in BRANDS.items() if brands & known), None)


def is_plugin_installed() -> bool:
    return find_spec("pillow_heif") is not None


def load_reader(image_format: str) -> None:
    """Makes Pillow read a format of BRANDS. Raises CorruptImage with the remedy if it cannot."""
    if image_format == "AVIF" and _has_avif():
        return
    if image_format not in _plugin_formats():
        upgrade = " or pip install --upgrade pillow" if image_format == "AVIF" else ""
        raise CorruptImage(
            f"reading {image_format} needs pillow-heif: pip install 'dist-ft[heif]'{upgrade}"
        )


@lru_cache(maxsize=None)
def _has_avif() -> bool:
    try:
        from PIL import AvifImagePlugin
    except ImportError:  # before Pillow 11.2
        return False
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # the loader decodes several images at a time
    return AvifImagePlugin.SUPPORTED


@lru_cache(maxsize=None)
def _plugin_formats() -> tuple[str, ...]:
    """The formats that pillow-heif adds to Pillow: AVIF only before its version 1."""
    try:
        import pillow_heif
    except ImportError:
        return ()
    pillow_heif.register_heif_opener(decode_threads=1)
    if not hasattr(pillow_heif, "register_avif_opener"):
        return ("HEIF",)
    pillow_heif.register_avif_opener(decode_threads=1)
    return ("HEIF", "AVIF")
