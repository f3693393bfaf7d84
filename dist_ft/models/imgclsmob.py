"""gluon's ResNets v2 as the project imgclsmob publishes them: MXNet files with names of its own.

https://github.com/osmr/imgclsmob converted them from gluon's weights, without the BatchNorm of the
input. Its networks otherwise have the same layers, and its images the same normalization.
"""

from __future__ import annotations

import re
from typing import Dict

import mxnet as mx

RELEASE = "https://github.com/osmr/imgclsmob/releases/download/v0.0.2/"
# Name and sha1 of the file of each network.
FILES = {
    "resnet18_v2": ("preresnet18-1029", "26f46f0b935779826c35d11b7f232ba4bc82a38d"),
    "resnet34_v2": ("preresnet34-0811", "f8fe98a25337d747b8687ffdbd1c83ce0d9b9a34"),
    "resnet50_v2": ("preresnet50b-0664", "2fcfddb13fbb8d7f58fb949f137610bf3d99a892"),
    "resnet101_v2": ("preresnet101b-0588", "1015145a6228aa16583a975b9c33f879ee2a6fc0"),
    "resnet152_v2": ("preresnet152b-0575", "dc303191ea47ca258f5abadd203b5de24d059d1a"),
}
FIRST_LAYER = "features.0.conv.weight"
# The start of a layer's path in imgclsmob's network and in gluon's.
BLOCKS = {
    "features.0.conv.": "features.1.",
    "features.0.bn.": "features.2.",
    **{f"features.{stage}.": f"features.{stage + 4}." for stage in range(1, 5)},
    "features.5.bn.": "features.9.",
}
BN_EPSILON = 1e-5  # of gluon's BatchNorm, which divides by the root of variance + epsilon

Arrays = Dict[str, mx.nd.NDArray]


def rename_to_gluon(arrays: Arrays) -> Arrays:
    """The arrays under their paths in gluon's network, with a BatchNorm that keeps its input.

    Unknown names stay, as those of the head do.
    """
    return {
        **{_path_in_gluon(name): array for name, array in arrays.items()},
        "features.0.gamma": mx.nd.ones(3),
        "features.0.beta": mx.nd.zeros(3),
        "features.0.running_mean": mx.nd.zeros(3),
        "features.0.running_var": mx.nd.ones(3) - BN_EPSILON,
    }


def _path_in_gluon(name: str) -> str:
    block = next((block for block in BLOCKS if name.startswith(block)), "")
    layer = re.sub(r"^(\d+)\.body\.conv(\d)\.(bn|conv)\.", r"\1.\3\2.", name[len(block) :])
    return BLOCKS.get(block, "") + layer.replace("identity_conv", "downsample")
