"""Converts a .params file of gluon's resnet34_v2 to arrays for contestants/pytorch_resnet.py.

Also stores random pixels and gluon's logits for them, so that the copy can be verified.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet.gluon.model_zoo import vision

from dist_ft.models import weight_file, zoo
from dist_ft.models.mxnet_internals import parameters_by_path

# Positions of gluon's features in PyTorch's Sequential, which has the blocks of all stages in it.
POSITIONS = {0: 0, 1: 1, 2: 2, 9: 21}
STAGES = {5: 5, 6: 8, 7: 12, 8: 18}  # of their first blocks
HEAD = 25
NAMES = {"gamma": "weight", "beta": "bias"}
NUM_IMAGES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, metavar="FILE", help=".params file of resnet34_v2")
    parser.add_argument("out", metavar="NPZ")
    parser.add_argument("--image-size", type=int, required=True)
    args = parser.parse_args()
    arrays = weight_file.read(args.weights)
    net = vision.get_model("resnet34_v2", classes=arrays["output.weight"].shape[0])
    net.load_parameters(str(args.weights))
    shape = NUM_IMAGES, args.image_size, args.image_size, 3
    pixels = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    logits = zoo.with_normalization(net)(mx.nd.array(pixels, dtype=np.uint8)).asnumpy()
    converted = {
        torch_name(path): parameter.data().asnumpy()
        for path, parameter in parameters_by_path(net).items()
    }
    # The first BatchNorm has neither: its gamma is not used, and its beta stays 0.
    del converted["0.weight"]
    assert not converted.pop("0.bias").any()
    np.savez(args.out, pixels=pixels, logits=logits, **converted)
    print(json.dumps({"parameters": len(converted)}), flush=True)


def torch_name(path: str) -> str:
    """'features.5.0.bn1.gamma' is '5.bn1.weight'."""
    part, *rest = path.split(".")
    if part == "output":
        position = HEAD
    else:
        position, rest = int(rest[0]), rest[1:]
        if position in STAGES:
            position, rest = STAGES[position] + int(rest[0]), rest[1:]
        else:
            position = POSITIONS[position]
    *blocks, name = rest
    return ".".join([str(position), *blocks, NAMES.get(name, name)])


if __name__ == "__main__":
    main()
