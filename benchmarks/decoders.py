"""Images a second of a core, by decoder: decoded alone, and decoded, cropped, resized and flipped.

    python -m benchmarks.decoders --data DIR

Each in turn, in rounds, in this one process, which is held to one core; seconds are those that the
processor has worked for it. A decoder that is not installed is left out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Sequence

import cv2
import numpy as np
import simplejpeg

from benchmarks import codecs, machine, photos
from benchmarks.codecs import Codec, Crop
from benchmarks.rounds import spread
from benchmarks.table import markdown
from dist_ft.data import sampler, transforms

OURS = (
    *(codecs.SimpleJpeg, codecs.FastSimpleJpeg, codecs.ReusedSimpleJpeg, codecs.DistFt),
    *(codecs.TurboJpeg3, codecs.OpenCv, codecs.Pillow),
    *(codecs.MxnetImdecode, codecs.MxnetRecordIter),
)


def installed() -> tuple[list[Codec], list[str]]:
    """The decoders that can be used here, and why the others cannot."""
    found: list[Codec] = []
    left = []
    for make in (*OURS, _dali):
        try:
            found.append(make())
        except (ImportError, OSError) as error:
            left.append(f"{getattr(make, 'name', 'NVIDIA DALI')}: {error}")
    return found, left


def _dali() -> Codec:
    from benchmarks.dali import Dali

    return Dali()


def crops_of(files: Sequence[bytes]) -> list[Crop]:
    """A training view of each image, as dist_ft draws it in its first epoch."""
    crops = []
    for index, data in enumerate(files):
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        draws = sampler.image_draws(0, 0, index, transforms.NUM_DRAWS)
        box = transforms.random_crop_box(height, width, draws[:-1].reshape(-1, 4))
        crops.append(Crop(*box, draws[-1] < 0.5))
    return crops


def speed(work: Callable[[], int]) -> float | None:
    """Images a second of the processor's work; None where there are none."""
    start = time.process_time()
    num_images = work()
    return num_images / (time.process_time() - start) if num_images else None


def measured(
    found: Sequence[Codec], files: Sequence[bytes], num_rounds: int
) -> list[tuple[str, ...]]:
    """A row of the table for each decoder."""
    crops = crops_of(files)
    decoded: dict[str, list] = {codec.name: [] for codec in found}
    viewed: dict[str, list] = {codec.name: [] for codec in found}
    for turn in range(num_rounds + 1):
        for codec in found:
            speeds = (
                speed(lambda codec=codec: codec.decode_all(files)),
                speed(lambda codec=codec: codec.view_all(files, crops)),
            )
            if turn:  # the first is to warm up
                decoded[codec.name].append(speeds[0])
                viewed[codec.name].append(speeds[1])
    return [(name, *_words(decoded[name]), *_words(viewed[name])) for name in decoded]


def _words(speeds: Sequence[float | None]) -> tuple[str, str]:
    known = [value for value in speeds if value]
    if not known:
        return "", ""
    median, low, high = spread(known)
    return f"{median:,.0f}", f"{low:,.0f} to {high:,.0f}"


def archived(data: Path, folder: str) -> str:
    """The training images as RecordIO. Raises CalledProcessError."""
    command = [sys.executable, "-m", "dist_ft.pack", str(data), "--recordio", folder]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return f"{folder}/train.rec"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decoders",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag("--data", type=Path, help="folder of images (default: made by benchmarks.photos, kept)")
    flag("--images", type=int, default=512, help="at most so many (default: 512)")
    flag("--rounds", type=int, default=5, help="after one to warm up (default: 5)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    data = args.data or photos.kept()
    host = machine.described()  # of all its cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    files = [path.read_bytes() for path in sorted((data / "train").glob("*/*"))[: args.images]]
    if not files:
        sys.exit(f"{data}: no images in train/CLASS")
    found, left = installed()
    with tempfile.TemporaryDirectory(prefix="dist_ft-benchmark-") as folder:
        for codec in found:
            if isinstance(codec, codecs.MxnetRecordIter):
                codec.archive = archived(data, folder)
        rows = measured(found, files, args.rounds)
    kilobytes = float(np.mean([len(file) for file in files])) / 1e3
    print(f"Machine: {host}.\n{len(files)} images of {kilobytes:.0f} KB.\n")
    print(markdown(("images/s a core", "decoded", "", "and cropped, resized, flipped", ""), rows))
    print("".join(f"- left out: {words}\n" for words in left))


if __name__ == "__main__":
    main()
