"""Compares JPEG decoders on each kind of JPEG: images per second of one core.

    python -m benchmarks.decoders --data DIR

An image is decoded, cropped at random, resized to 224 px and flipped. All decoders take turns in
this process, which is bound to one core; CPU time counts. All but simplejpeg turn the image
upright.
"""

from __future__ import annotations

import io
import os
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Callable, NamedTuple, Sequence

import cv2
import mxnet as mx
import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from benchmarks import machine, photos
from benchmarks.command_line import parser_for
from benchmarks.results import table
from dist_ft.data import decoding, image, orientation, sampler, transforms
from dist_ft.data.orientation import Box

SIDE_PX = 224


class Crop(NamedTuple):
    box: Box
    stored_box: Box  # before the image is turned upright
    is_flipped: bool
    draws: np.ndarray  # the random numbers that it comes from


Augment = Callable[[bytes, Crop], np.ndarray]


def dist_ft(data: bytes, crop: Crop) -> np.ndarray:
    pixels = np.empty((SIDE_PX, SIDE_PX, 3), np.uint8)
    transforms.random_resized_crop(decoding.open_image(data), crop.draws, pixels)
    return pixels


def resize(pixels: np.ndarray, crop: Crop) -> np.ndarray:
    pixels = cv2.resize(pixels, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR)
    return cv2.flip(pixels, 1) if crop.is_flipped else pixels


def simplejpeg_buffer(data: bytes, crop: Crop) -> np.ndarray:
    """The least that libjpeg-turbo has to do: at reduced size, as dist_ft, but never turned."""
    factor = next((f for f in (8, 4, 2) if min(crop.box[2:]) >= f * SIDE_PX), 1)
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    size = {"min_height": height // factor, "min_width": width // factor, "min_factor": factor}
    pixels = decode_fast(data, buffer=BUFFER, **size)
    left, top, width, height = (length // factor for length in crop.stored_box)
    return resize(cut(pixels, (left, top, width, height)), crop)


def simplejpeg_exact(data: bytes, crop: Crop) -> np.ndarray:
    return resize(cut(simplejpeg.decode_jpeg(data, "RGB"), crop.stored_box), crop)


def opencv(data: bytes, crop: Crop) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return resize(cut(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), crop.box), crop)


def pillow(data: bytes, crop: Crop) -> np.ndarray:
    left, top, width, height = crop.box
    box = (left, top, left + width, top + height)
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    picture = picture.resize((SIDE_PX, SIDE_PX), Image.BILINEAR, box=box)
    if crop.is_flipped:
        picture = picture.transpose(Image.FLIP_LEFT_RIGHT)
    return np.asarray(picture)


def mxnet(data: bytes, crop: Crop) -> np.ndarray:
    return resize(cut(mx.image.imdecode(data).asnumpy(), crop.box), crop)


def cut(pixels: np.ndarray, box: Box) -> np.ndarray:
    left, top, width, height = box
    return pixels[top : top + height, left : left + width]


decode_fast = partial(simplejpeg.decode_jpeg, colorspace="RGB", fastdct=True, fastupsample=True)
BUFFER = np.empty(image.MAX_PIXELS * 3, np.uint8)  # memory is taken only where it is written

DECODERS: dict[str, Augment] = {
    "dist_ft": dist_ft,
    "simplejpeg into a buffer": simplejpeg_buffer,
    "simplejpeg": simplejpeg_exact,
    "OpenCV": opencv,
    "Pillow": pillow,
    "MXNet imdecode": mxnet,
}


def crops_of(files: Sequence[bytes]) -> list[Crop]:
    """A random crop of each image, as dist_ft draws it in its first epoch."""
    crops = []
    for index, data in enumerate(files):
        opened = decoding.open_image(data)
        draws = sampler.image_draws(0, 0, index, transforms.NUM_DRAWS)
        box = transforms.random_crop_box(opened.height, opened.width, draws[:-1].reshape(-1, 4))
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        stored_box = orientation.orientation_of(data).stored_box(box, height, width)
        crops.append(Crop(box, stored_box, draws[-1] < 0.5, draws))
    return crops


def images_per_s(augment: Augment, files: Sequence[bytes], crops: Sequence[Crop]) -> float:
    """Images per second of CPU time."""
    start = time.process_time()
    for data, crop in zip(files, crops):
        augment(data, crop)
    return len(files) / (time.process_time() - start)


def measure(files: Sequence[bytes], num_rounds: int) -> list[float]:
    """Each decoder's median speed, and the median ratio of the first to the second one."""
    crops = crops_of(files)
    rounds = []
    for _ in range(1 + num_rounds):  # the first one warms up
        rounds.append([images_per_s(augment, files, crops) for augment in DECODERS.values()])
    ratios = [speeds[0] / speeds[1] for speeds in rounds[1:]]
    return [*map(median, zip(*rounds[1:])), median(ratios)]


def main() -> None:
    parser = parser_for("decoders", __doc__)
    flag = parser.add_argument
    flag("--data", type=Path, help="image folder (default: that of benchmarks.photos)")
    flag("--images", type=int, default=100, help="of each kind, at most (default: 100)")
    flag("--large", type=int, default=4, help="of 12 MP, at most (default: 4)")
    flag("--rounds", type=int, default=5, help="after one to warm up (default: 5)")
    args = parser.parse_args()
    data = args.data or photos.default_folder()
    description = machine.describe()  # with all of its cores
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    paths = sorted((data / "train").glob("*/*.jpg"))[: args.images]
    if not paths:
        parser.error(f"{data}: no images in train/CLASS/*.jpg")
    print(f"Machine: {description}.\nImages: {photos.describe(data)}.\n", flush=True)
    rows = []
    for kind, files in photos.kinds(paths, args.large).items():
        *speeds, ratio = measure(files, args.rounds)
        rows.append((kind, *(f"{speed:,.0f}" for speed in speeds), f"{ratio:.2f}"))
    print(table(("images/s of a core", *DECODERS, "dist_ft / into a buffer"), rows))


if __name__ == "__main__":
    main()
