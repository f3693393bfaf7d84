"""Reads a file of weights, gluon's .params or ONNX, into a network. Nothing is ever unpickled."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Dict, Tuple

import mxnet as mx

from dist_ft.errors import UserError
from dist_ft.files import library_path, user_errors
from dist_ft.models import imgclsmob, zoo
from dist_ft.models.mxnet_internals import other_paths, parameters_by_path

Arrays = Dict[str, mx.nd.NDArray]
Shapes = Dict[str, Tuple[int, ...]]

# The start of MXNet's list of arrays: kMXAPINDArrayListMagic in src/ndarray/ndarray.cc, uint64.
PARAMS_MAGIC = (0x112).to_bytes(8, "little")
OTHER_FORMATS = {  # by their first bytes: files that are often mistaken for weights
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run 'git lfs pull'",
    b"<": "a web page (HTML or XML); download the file behind the link",
    b"PK": "a zip archive; unpack it, and use the .params file inside",
    b"\x80": "a Python pickle, as PyTorch writes it, which can run code when read; convert it to"
    " ONNX",
}
RESNET_DEPTH = {20: 18, 36: 34, 53: 50, 104: 101, 155: 152}  # by the number of 4-D weights
MAX_NAMES_SHOWN = 8


def load_backbone(path: Path, net: mx.gluon.Block) -> None:
    """Copies the arrays of a file into the parameters of an initialized network, except the head's.

    The arrays are named by path ('features.0.gamma'), by gluon's names
    ('resnetv20_batchnorm0_gamma', with any prefix), or by imgclsmob's. Raises UserError, before it
    changes anything, if `read` does, and unless names and shapes agree exactly.
    """
    arrays, parameters, head = read(path), parameters_by_path(net), zoo.head_prefix(net)
    if imgclsmob.FIRST_LAYER in arrays.keys() - parameters.keys():
        arrays = imgclsmob.rename_to_gluon(arrays)
    elif not arrays.keys() & parameters.keys():
        arrays = _rename_to_paths(arrays, net)
    repeated = other_paths(net)
    arrays = {path: array for path, array in arrays.items() if path not in repeated}
    backbone = {path: p for path, p in parameters.items() if not path.startswith(head)}
    _check_fit(
        {path: array.shape for path, array in arrays.items() if not path.startswith(head)},
        {path: parameter.shape for path, parameter in backbone.items()},
    )
    for name, parameter in backbone.items():
        parameter.set_data(arrays[name].astype(parameter.dtype))


def read(path: Path) -> Arrays:
    """The arrays by name of a .params file (save_parameters or export) or of an ONNX file.

    The content decides on the format, not the file name. Raises UserError if the file cannot be
    read, is incomplete, or has another format.
    """
    with user_errors(f"--weights {path}", "cannot be read", "choose another file"):
        with open(path, "rb") as file:
            start = file.read(64)
        size = path.stat().st_size
        for prefix, description in OTHER_FORMATS.items():
            if start.lstrip().startswith(prefix):
                raise UserError(f"--weights {path}: is {description}")
        try:
            arrays = _read_params(path) if start.startswith(PARAMS_MAGIC) else _read_onnx(path)
        except (mx.MXNetError, ValueError) as error:
            raise UserError(
                f"--weights {path}: not a complete .params or ONNX file ({size:,} bytes;"
                f" {str(error).strip().splitlines()[-1]}); download it again"
            ) from error
    if not arrays:
        raise UserError(f"--weights {path}: contains no named arrays ({size:,} bytes)")
    return arrays


def _read_params(path: Path) -> Arrays:
    with library_path(path) as file:
        loaded = mx.nd.load(file)
    if not isinstance(loaded, dict):
        return {}
    # `export` prefixes names by "arg:" or "aux:". Arrays saved from a GPU are loaded onto one.
    return {name.split(":")[-1]: array.as_in_context(mx.cpu()) for name, array in loaded.items()}


def _read_onnx(path: Path) -> Arrays:
    """The floating-point initializers; integer ones are shapes."""
    try:
        import onnx  # an optional package
        from google.protobuf.message import DecodeError
        from onnx import numpy_helper
    except ImportError as error:
        raise UserError(
            f"--weights {path}: reading an ONNX file needs the package onnx ({error});"
            " run: pip install 'dist-ft[onnx]'"
        ) from error
    try:
        initializers = onnx.load(str(path)).graph.initializer
    except DecodeError as error:
        raise ValueError(str(error)) from error
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in initializers}
    return {
        name: mx.nd.array(value, dtype=value.dtype)
        for name, value in values.items()
        if value.dtype.kind == "f"
    }


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
    problems = {
        "missing in the file": [name for name in network if name not in file],
        "unknown to the network": [name for name in file if name not in network],
        "with another shape": [
            f"{name} (file {file[name]}, network {network[name]})"
            for name in network
            if name in file and file[name] != network[name]
        ],
    }
    if not any(problems.values()):
        return
    lines = ["the weights do not fit the network:"]
    for problem, names in problems.items():
        if names:
            num_more = len(names) - MAX_NAMES_SHOWN
            more = f" and {num_more} more" if num_more > 0 else ""
            lines.append(f"  {len(names)} {problem}: {', '.join(names[:MAX_NAMES_SHOWN])}{more}")
    other_model = _resnet_name(file)
    if other_model and other_model != _resnet_name(network):
        lines.append(f"  the file seems to belong to --model {other_model}")
    else:
        lines.append("  choose the --model of the file, or --weights for this model")
    raise UserError("\n".join(lines))


def _resnet_name(shapes: Shapes) -> str:
    """The model zoo's ResNet whose backbone has such shapes, or ''."""
    depth = RESNET_DEPTH.get(sum(len(shape) == 4 for shape in shapes.values()))
    version = 2 if (3,) in shapes.values() else 1  # version 2 normalizes the 3 input channels
    return f"resnet{depth}_v{version}" if depth else ""
