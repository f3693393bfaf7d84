"""Reads a file of weights: gluon's .params or ONNX. Nothing is ever unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Dict

import mxnet as mx

from dist_ft.errors import UserError
from dist_ft.files import user_errors

Arrays = Dict[str, mx.nd.NDArray]

# The start of MXNet's list of arrays: kMXAPINDArrayListMagic in src/ndarray/ndarray.cc, uint64.
PARAMS_MAGIC = (0x112).to_bytes(8, "little")
OTHER_FORMATS = {  # by their first bytes: files that are often mistaken for weights
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run 'git lfs pull'",
    b"<": "a web page (HTML or XML); download the file behind the link",
    b"PK": "a zip archive; unpack it, and use the .params file inside",
    b"\x80": "a Python pickle, as PyTorch writes it, which can run code when read; convert it to"
    " ONNX",
}


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
    loaded = mx.nd.load(str(path))
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
