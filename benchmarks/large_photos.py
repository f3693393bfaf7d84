"""Shows what averaging does for large photographs: the accuracy of a trained network on them.

    python -m benchmarks.large_photos RUN DIR

The test images of DIR are enlarged, get a camera's noise, and are encoded as JPEG. The network sees
them as dist_ft shows them, which averages, and by bilinear interpolation alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterable, Sequence

import cv2
import numpy as np
import simplejpeg

from benchmarks import machine
from benchmarks.command_line import parser_for
from benchmarks.results import table
from dist_ft.data import decoding
from dist_ft.data.transforms import InputSpec, center_crop
from dist_ft.distributed import threads

QUALITY = 90  # of the JPEGs


def averaged(pixels: np.ndarray, spec: InputSpec) -> np.ndarray:
    return center_crop(pixels, *spec)


def bilinear(pixels: np.ndarray, spec: InputSpec) -> np.ndarray:
    height = width = spec.resize
    if spec.keep_ratio:
        shorter = min(pixels.shape[:2])
        height, width = (round(length * spec.resize / shorter) for length in pixels.shape[:2])
    return center_crop(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR), *spec)


def enlarge(pixels: np.ndarray, factor: int, sigma: float, seed: int) -> bytes:
    """The JPEG of a larger picture with Gaussian noise of standard deviation `sigma`, of 0..255."""
    large = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    noise = np.random.RandomState(seed).normal(0, sigma, large.shape)
    noisy = np.rint(large + noise).clip(0, 255).astype(np.uint8)
    return simplejpeg.encode_jpeg(noisy, quality=QUALITY)


def measure(run: Path, data: str, factor: int, noises: Sequence[float]) -> list[tuple[str, ...]]:
    """A row of the table for each noise, and for each view of the pictures that have it."""
    import mxnet as mx

    from dist_ft.data.rank_batches import TEST_BATCH_SIZE
    from dist_ft.distributed import startup
    from dist_ft.inference import model_evaluation, trained_model

    with startup.start() as world:
        model = trained_model.load(run)
        net = model.network(world)
        split = model_evaluation.labeled_split(data, "test", model.classes)
        labels = np.array(split.labels)
        originals = [decoding.decode(split.read(index)) for index in range(len(split))]

        def accuracy(images: Sequence[np.ndarray]) -> str:
            parts = np.split(np.stack(images), range(TEST_BATCH_SIZE, len(images), TEST_BATCH_SIZE))
            logits = [net(mx.nd.array(part, dtype="uint8")).asnumpy() for part in parts]
            return f"{np.mean(np.concatenate(logits).argmax(axis=1) == labels):.3f}"

        def row(name: str, pictures: Iterable[np.ndarray]) -> tuple[str, ...]:
            views = [(bilinear(p, model.spec), averaged(p, model.spec)) for p in pictures]
            return (name, *map(accuracy, zip(*views)))

        rows = [row("original", originals)]
        for noise in noises:
            files = (enlarge(p, factor, noise, seed) for seed, p in enumerate(originals))
            rows.append(row(f"{factor} x, noise {noise:g}", map(decoding.decode, files)))
    return rows


def main() -> None:
    parser = parser_for("large_photos", __doc__)
    flag = parser.add_argument
    flag("run", type=Path, help="folder of a run of dist_ft.train")
    flag("data", help="image folder")
    flag("--factor", type=int, default=8, help="by which the pictures are enlarged (default: 8)")
    flag(
        "--noise",
        type=float,
        nargs="+",
        default=[0, 25, 50],
        help="standard deviations, of 0 to 255 (default: 0 25 50)",
    )
    args = parser.parse_args()
    threads.bind_cores()
    rows = measure(args.run, args.data, args.factor, args.noise)
    print(f"Machine: {machine.describe()}.\n")
    print(table(("accuracy on test images", "bilinear", "averaged"), rows))


if __name__ == "__main__":
    main()
