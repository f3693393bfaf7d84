"""Compares JPEG decoders: images per second of one core.

    python -m benchmarks.decoders --data DIR

Measures decoding alone, and decoding with a random crop, a resize to 224 px and a flip. All
decoders take turns in this process, which is bound to one core; CPU time counts.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from functools import partial
from pathlib import Path
from typing import Callable, Iterable, NamedTuple, Sequence

import cv2
import mxnet as mx
import numpy as np
import simplejpeg
from PIL import Image

from benchmarks import machine, photos
from benchmarks.results import spread, table
from dist_ft.data import decoding, sampler, transforms

SIDE_PX = 224


class Crop(NamedTuple):
    left: int
    top: int
    width: int
    height: int
    is_flipped: bool


Decode = Callable[[bytes], np.ndarray]
Augment = Callable[[bytes, Crop], np.ndarray]


def crop_after(decode: Decode) -> Augment:
    """Crops, resizes and flips with OpenCV what `decode` returns."""

    def augment(data: bytes, crop: Crop) -> np.ndarray:
        pixels = decode(data)
        return resize(pixels[crop.top :, crop.left :][: crop.height, : crop.width], crop)

    return augment


def resize(pixels: np.ndarray, crop: Crop) -> np.ndarray:
    pixels = cv2.resize(pixels, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR)
    return cv2.flip(pixels, 1) if crop.is_flipped else pixels


def dist_ft(data: bytes) -> np.ndarray:
    return decoding.open_image(data).pixels()


def dist_ft_crop(data: bytes, crop: Crop) -> np.ndarray:
    return resize(decoding.open_image(data).crop(crop[:4], SIDE_PX), crop)


def opencv(data: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def pillow_crop(data: bytes, crop: Crop) -> np.ndarray:
    left, top, width, height, is_flipped = crop
    box = (left, top, left + width, top + height)
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture = picture.resize((SIDE_PX, SIDE_PX), Image.BILINEAR, box=box)
    if is_flipped:
        picture = picture.transpose(Image.FLIP_LEFT_RIGHT)
    return np.asarray(picture)


def mxnet(data: bytes) -> np.ndarray:
    return mx.image.imdecode(data).asnumpy()


simplejpeg_exact = partial(simplejpeg.decode_jpeg, colorspace="RGB")
simplejpeg_fast = partial(simplejpeg_exact, fastdct=True, fastupsample=True)

DECODERS: dict[str, tuple[Decode, Augment]] = {
    "dist_ft": (dist_ft, dist_ft_crop),
    "simplejpeg": (simplejpeg_exact, crop_after(simplejpeg_exact)),
    "simplejpeg, fast DCT and upsampling": (simplejpeg_fast, crop_after(simplejpeg_fast)),
    "OpenCV": (opencv, crop_after(opencv)),
    "Pillow": (pillow, pillow_crop),
    "MXNet imdecode": (mxnet, crop_after(mxnet)),
}


def crops_of(files: Sequence[bytes]) -> list[Crop]:
    """A random crop of each image, as dist_ft draws it in its first epoch."""
    crops = []
    for index, data in enumerate(files):
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        draws = sampler.image_draws(0, 0, index, transforms.NUM_DRAWS)
        box = transforms.random_crop_box(height, width, draws[:-1].reshape(-1, 4))
        crops.append(Crop(*box, draws[-1] < 0.5))
    return crops


def images_per_s(function: Callable, arguments: Iterable[tuple]) -> float:
    """Calls per second of CPU time."""
    num_calls, start = 0, time.process_time()
    for args in arguments:
        function(*args)
        num_calls += 1
    return num_calls / (time.process_time() - start)


def measure(files: Sequence[bytes], num_rounds: int) -> list[tuple[str, ...]]:
    """A row of the table for each decoder."""
    crops = crops_of(files)
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in DECODERS}
    for number in range(num_rounds + 1):
        for name, (decode, augment) in DECODERS.items():
            decoded = images_per_s(decode, ((data,) for data in files))
            augmented = images_per_s(augment, zip(files, crops))
            if number > 0:  # the first round warms up
                speeds[name].append((decoded, augmented))
    text = "{:,.0f} ({:,.0f} to {:,.0f})"  # median, minimum, maximum
    return [(n, *(text.format(*spread(s)) for s in zip(*speeds[n]))) for n in DECODERS]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decoders",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag("--data", type=Path, help="image folder (default: that of benchmarks.photos)")
    flag("--images", type=int, default=512, help="maximum (default: 512)")
    flag("--rounds", type=int, default=5, help="after one to warm up (default: 5)")
    args = parser.parse_args()
    data = args.data or photos.default_folder()
    description = machine.describe()  # with all of its cores
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    paths = sorted((data / "train").glob("*/*.jpg"))[: args.images]
    if not paths:
        parser.error(f"{data}: no images in train/CLASS/*.jpg")
    rows = measure([path.read_bytes() for path in paths], args.rounds)
    print(f"Machine: {description}.\nImages: {photos.describe(data)}.\n")
    print(table(("images/s of a core", "decoded", "and cropped, resized, flipped"), rows))


if __name__ == "__main__":
    main()
