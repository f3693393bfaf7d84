"""Copies the weights of a file into a network's backbone, and explains why a file does not fit."""

from __future__ import annotations

from collections import Counter
from typing import Dict, Tuple

import mxnet as mx

from dist_ft.errors import UserError
from dist_ft.models import zoo
from dist_ft.models.mxnet_internals import parameters_by_path
from dist_ft.models.weight_file import Arrays

Shapes = Dict[str, Tuple[int, ...]]

RESNET_DEPTH = {20: 18, 36: 34, 53: 50, 104: 101, 155: 152}  # by the number of 4-D weights
MAX_NAMES_SHOWN = 8


def copy_backbone(arrays: Arrays, net: mx.gluon.Block) -> list[str]:
    """Copies the arrays into the network's parameters, except the head's; returns their paths.

    The network is initialised. The arrays are named by path ('features.0.gamma') or by gluon's
    names ('resnetv20_batchnorm0_gamma', with any prefix). Raises UserError, before it changes
    anything, unless names and shapes agree exactly.
    """
    head, parameters = zoo.head_prefix(net), parameters_by_path(net)
    if not arrays.keys() & parameters.keys():
        arrays = _rename_to_paths(arrays, net)
    backbone = {path: p for path, p in parameters.items() if not path.startswith(head)}
    arrays = {path: array for path, array in arrays.items() if not path.startswith(head)}
    _check_fit(
        {path: array.shape for path, array in arrays.items()},
        {path: parameter.shape for path, parameter in backbone.items()},
    )
    for path, parameter in backbone.items():
        parameter.set_data(arrays[path].astype(parameter.dtype))
    return list(backbone)


def _rename_to_paths(arrays: Arrays, net: mx.gluon.Block) -> Arrays:
    """Renames arrays from gluon's names to paths in the network; unknown names stay."""
    paths = {}  # by gluon's name without the network's prefix
    for path, parameter in parameters_by_path(net).items():
        name = parameter.name
        paths[name[len(net.prefix) :] if name.startswith(net.prefix) else name] = path
    # The file's prefix depends on the process that wrote it. It is the most frequent remainder when
    # a known name is removed from the end of a name in the file.
    prefixes = Counter(
        name[: -len(suffix)] for name in arrays for suffix in paths if name.endswith(suffix)
    )
    prefix = prefixes.most_common(1)[0][0] if prefixes else ""
    paths_by_name = {prefix + suffix: path for suffix, path in paths.items()}
    return {paths_by_name.get(name, name): array for name, array in arrays.items()}


def _check_fit(file: Shapes, network: Shapes) -> None:
    """Raises UserError unless both have the same names with the same shapes."""
    differing = [
        f"{name} (file {file[name]}, network {network[name]})"
        for name in network
        if name in file and file[name] != network[name]
    ]
    problems = {
        "missing in the file": [name for name in network if name not in file],
        "unknown to the network": [name for name in file if name not in network],
        "with another shape": differing,
    }
    if not any(problems.values()):
        return
    lines = ["the weights do not fit the network:"]
    for problem, names in problems.items():
        if names:
            lines.append(f"  {len(names)} {problem}: {_shorten(names)}")
    other_model = _resnet_name(file)
    if other_model and other_model != _resnet_name(network):
        lines.append(f"  the file seems to belong to --model {other_model}")
    else:
        lines.append("  choose the --model of the file, or --weights for this model")
    raise UserError("\n".join(lines))


def _shorten(names: list[str]) -> str:
    num_more = len(names) - MAX_NAMES_SHOWN
    shown = ", ".join(names[:MAX_NAMES_SHOWN])
    return f"{shown} and {num_more} more" if num_more > 0 else shown


def _resnet_name(shapes: Shapes) -> str:
    """The model zoo's ResNet whose backbone has such shapes, or ''."""
    depth = RESNET_DEPTH.get(sum(len(shape) == 4 for shape in shapes.values()))
    version = 2 if (3,) in shapes.values() else 1  # version 2 normalises the 3 input channels
    return f"resnet{depth}_v{version}" if depth else ""
