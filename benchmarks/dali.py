"""NVIDIA DALI on the CPU: whole images, and, for views, only the region that is shown."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np
from nvidia.dali import fn, pipeline_def, types

from benchmarks.codecs import BATCH, SIDE, Codec, Crop

# One thread, which does one batch after the other.
alone = pipeline_def(
    batch_size=BATCH,
    num_threads=1,
    device_id=None,
    exec_pipelined=False,
    exec_async=False,
    prefetch_queue_depth=1,
)


class Dali(Codec):
    """It takes batches, and leaves out a last one that is short; views are of crops of its own."""

    name = "NVIDIA DALI, fast, of a region"

    def __init__(self):
        self._decoding, self._viewing = _decoding(), _viewing()
        self._decoding.build()
        self._viewing.build()

    def decode_all(self, files: Sequence[bytes]) -> int:
        return _run(self._decoding, files)

    def view_all(self, files: Sequence[bytes], crops: Sequence[Crop]) -> int:
        return _run(self._viewing, files)


@alone
def _decoding():
    encoded = fn.external_source(name="encoded", dtype=types.UINT8)
    return fn.decoders.image(encoded, device="cpu", use_fast_idct=True)


@alone
def _viewing():
    encoded = fn.external_source(name="encoded", dtype=types.UINT8)
    pixels = fn.decoders.image_random_crop(
        encoded,
        device="cpu",
        use_fast_idct=True,
        random_area=(0.08, 1.0),
        random_aspect_ratio=(3 / 4, 4 / 3),
    )
    pixels = fn.resize(pixels, size=(SIDE, SIDE), interp_type=types.INTERP_LINEAR, antialias=False)
    return fn.flip(pixels, horizontal=fn.random.coin_flip())


def _run(pipeline: Any, files: Sequence[bytes]) -> int:
    whole = len(files) // BATCH * BATCH
    for start in range(0, whole, BATCH):
        batch = [np.frombuffer(data, np.uint8) for data in files[start : start + BATCH]]
        pipeline.feed_input("encoded", batch)
        pipeline.run()
    return whole
