"""Quantizes a network to int8, as MXNet and oneDNN compute it on a CPU."""

from __future__ import annotations

import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Iterator

import mxnet as mx
import numpy as np
from mxnet.contrib import quantization

from dist_ft.data import decoding, transforms
from dist_ft.data.dataset import Split
from dist_ft.data.image import CorruptImage
from dist_ft.data.rank_batches import TEST_BATCH_SIZE
from dist_ft.data.transforms import InputSpec
from dist_ft.errors import UserError
from dist_ft.models import zoo

NUM_CALIBRATION_IMAGES = 1000  # with 200, activations beyond the measured ranges change labels


def calibration_pixels(split: Split, spec: InputSpec, num_workers: int) -> np.ndarray:
    """(n, side, side, 3) uint8: readable images, evenly spaced. Raises UserError if none is."""

    def read(index: int) -> np.ndarray | None:
        try:
            return transforms.center_crop(decoding.decode(split.read(index)), *spec)
        except (CorruptImage, OSError):
            return None

    indices = range(0, len(split), max(1, len(split) // NUM_CALIBRATION_IMAGES))
    with ThreadPoolExecutor(num_workers) as workers:
        images = [image for image in workers.map(read, indices) if image is not None]
    if not images:
        raise UserError("--to int8: no training image can be read, and int8 is calibrated on them")
    return np.stack(images)


def quantize(core: mx.gluon.HybridBlock, pixels: np.ndarray) -> mx.gluon.Block:
    """The network with 8-bit convolutions and dense layers.

    Weights are stored in float32 and quantized when they are loaded. pixels: (n, side, side, 3)
    uint8, the images on which the ranges of the layers' outputs are measured. Raises UserError if a
    range is not finite.
    """
    x = zoo.Normalize()(mx.nd.array(pixels, dtype="uint8"))
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # no messages from each rewritten layer
    nodes = json.loads(core(mx.sym.var("data")).tojson())["nodes"]
    try:
        with no_type_warnings():
            return quantization.quantize_net_v2(
                core,
                quantized_dtype="int8",  # keeps 0.98 of ResNet34_v2's labels; 'auto' (uint8), 0.93
                quantize_granularity="channel-wise",
                exclude_layers=sensitive_layers(nodes),
                calib_data=mx.io.NDArrayIter(x, batch_size=min(TEST_BATCH_SIZE, len(pixels))),
                calib_mode="naive",
                ctx=mx.cpu(),
            )
    except mx.MXNetError as error:  # the ranges of a network that has diverged are infinite
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"--to int8: the network cannot be quantized ({reason}); export a checkpoint that"
            " dist_ft.evaluate accepts"
        ) from error


def sensitive_layers(nodes: list[dict[str, Any]]) -> list[str]:
    """Names of the operations that stay in float32, because they would change the most labels.

    These are the first convolution, which sees the pixels, and the head: the means over an image
    are as small as a quantization step for the range of its single pixels. nodes: of a symbol.
    """
    operations = [node for node in nodes if node["op"] != "null"]
    first = next(node["name"] for node in operations if node["op"] == "Convolution")
    pool_types = [node.get("attrs", {}).get("pool_type") for node in operations]
    means = [position for position, pool_type in enumerate(pool_types) if pool_type == "avg"]
    head = operations[means[-1] if means else -1 :]
    return [first, *(node["name"] for node in head)]


@contextmanager
def no_type_warnings() -> Iterator[None]:
    """Silences Gluon's warning of an input without a type: each call gives the type."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Cannot decide type")
        yield
