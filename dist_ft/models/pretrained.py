"""Where pretrained weights come from: a .params or ONNX file, found or downloaded, and verified."""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, NamedTuple, Tuple

import mxnet as mx
from mxnet.gluon.model_zoo import model_store

from dist_ft.errors import Unavailable, UserError
from dist_ft.models import download
from dist_ft.models.mxnet_internals import gluon_sha1, gluoncv_sha1, parameters_by_path

Arrays = Dict[str, mx.nd.NDArray]
Shapes = Dict[str, Tuple[int, ...]]

# The models of the ONNX Model Zoo that MXNet itself exported, and their sha256.
ONNX_REPO = "https://huggingface.co/onnxmodelzoo/legacy_models/resolve/main/"
ONNX_FOLDER = "validated/vision/classification/resnet/model/"
ONNX_SHA256 = {
    "resnet18-v2-7": "3b4d048057854022232aa20bf68262e31718ab7119a17f920b8a2dc1433f824b",
    "resnet34-v2-7": "3d3815e25f4b1ea967e2a526a3b27ef2a03af1725bdc199a63a271c26862d914",
    "resnet50-v2-7": "79102261eb6e5fd7af5d27f41316293e388c5cb691e5d25bfb035c4f64fefe31",
    "resnet101-v2-7": "3a0a819ea0953fb4700b0d98e43540aeee253e5b4c503c552b0c7979fc67767d",
}
PARAMS_MAGIC = (0x112).to_bytes(
    8, "little"
)  # MXNet's list of NDArrays: ndarray.cc, kMXAPINDArrayListMagic
FOREIGN = {  # how files begin that are often taken for weights
    b"version https://git-lfs": "it is a Git LFS pointer, not the file: run 'git lfs pull'",
    b"<": "it is a web page (HTML or XML), not the file behind the link",
    b"PK": "it is a zip archive: unpack it and name the .params file in it",
    b"\x80": "it is a Python pickle, as PyTorch writes them, and is not read",
}
RESNET_DEPTH = {20: 18, 36: 34, 53: 50, 104: 101, 155: 152}  # by the number of convolutions
NUM_SHOWN = 8  # names in a list of what does not fit


class Source(NamedTuple):
    """A file of weights: its name in the folder of models, its digest, and where it is offered."""

    name: str
    sha: str
    url: str


def sources(model: str) -> list[Source]:
    """The published files for a network of the zoo.

    The variables MXNET_GLUON_REPO and DIST_FT_ONNX_REPO name other places for them.
    """
    found = []
    sha1 = _zoo_sha1(model)
    if sha1:
        stem = f"{model}-{sha1[:8]}"
        repo = os.environ.get("MXNET_GLUON_REPO", model_store.apache_repo_url).rstrip("/")
        found.append(Source(f"{stem}.params", sha1, f"{repo}/gluon/models/{stem}.zip"))
    stem = model.replace("_", "-") + "-7"
    if stem in ONNX_SHA256:
        repo = os.environ.get("DIST_FT_ONNX_REPO", ONNX_REPO).rstrip("/")
        found.append(Source(f"{stem}.onnx", ONNX_SHA256[stem], f"{repo}/{ONNX_FOLDER}{stem}.onnx"))
    return found


def _zoo_sha1(model: str) -> str | None:
    known = gluon_sha1()
    return known[model] if model in known else gluoncv_sha1().get(model)


def at_hand(choice: str, model: str) -> Path | None:
    """The file that a run would start from without a download; None where there is none.

    choice: 'none', 'auto', or a file. Raises UserError for a file that does not exist or is not to
    be reached, and for a model that nobody published weights of.
    """
    if choice == "none":
        return None
    if choice != "auto":
        with _reading(choice):
            is_there = Path(choice).is_file()
        if not is_there:
            raise UserError(
                f"--weights {choice}: no such file; or 'auto', or 'none' for random numbers"
            )
        return Path(choice)
    known = sources(model.lower())
    if not known:
        raise UserError(
            f"--weights auto: no published weights of {model} are known;"
            " name a file, or start from random numbers with --weights none"
        )
    for source in known:
        path = _folder() / source.name
        with _reading(path):
            if download.has_digest(path, source.sha):
                return path
    return None


def locate(choice: str, model: str) -> Path | None:
    """The file to start from: None for 'none', the file that choice names, or for 'auto' a file of
    MXNET_HOME/models (default ~/.mxnet/models), downloaded if need be.

    Raises what `at_hand` raises; Unavailable when it can be neither found nor downloaded.
    """
    path = at_hand(choice, model)
    if path is None and choice == "auto":
        return _download(model, sources(model.lower()), _folder())
    return path


def _folder() -> Path:
    return Path(mx.base.data_dir()).expanduser() / "models"


def _download(model: str, known: list[Source], folder: Path) -> Path:
    """The first of the known files that its server hands over, put into folder."""
    failures = []
    for source in known:
        if (folder / source.name).exists():
            failures.append(f"{folder / source.name}: there, but its digest is wrong")
        print(f"downloading {source.name} to {folder}", file=sys.stderr, flush=True)
        try:
            download.obtain(source.url, folder / source.name, source.sha)
            return folder / source.name
        except download.Failed as error:
            print(f"not to be had: {error}", file=sys.stderr, flush=True)
            failures.append(str(error))
        except OSError as error:
            raise UserError(
                f"cannot put {source.name} into {folder}: {error};"
                " make room, or name another folder with the variable MXNET_HOME"
            ) from error
    lines = [f"the pretrained weights of {model} are not in {folder} and not to be downloaded:"]
    lines += [f"  {failure}" for failure in failures]
    lines += [f"Put one of these into {folder}, or name it with --weights FILE:"]
    lines += [f"  {name} (sha{_bits(sha)} {sha}) from {url}" for name, sha, url in known]
    lines += ["To start from random numbers instead: --weights none"]
    raise Unavailable("\n".join(lines))


def _bits(sha: str) -> int:
    return 1 if len(sha) == 40 else 256


def read(path: Path) -> Arrays:
    """The arrays, by name, of a gluon .params file (save_parameters, export) or of an ONNX file.

    The content tells which, not the file's name. Raises UserError for any other file, and for one
    that is damaged or that the operating system does not hand over. Nothing is unpickled.
    """
    with _reading(path), open(str(path), "rb") as file:
        start = file.read(64)
    for first, what in FOREIGN.items():
        if start.lstrip().startswith(first):
            raise UserError(f"{path} holds no weights: {what}")
    try:
        with _reading(path):
            arrays = _read_params(path) if start.startswith(PARAMS_MAGIC) else _read_onnx(path)
    except (mx.MXNetError, ValueError) as error:
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be read, it is neither a whole .params"
            f" nor a whole ONNX file; fetch it again ({str(error).strip().splitlines()[-1]})"
        ) from error
    if not arrays:
        raise UserError(f"{path} ({path.stat().st_size:,} bytes) holds no named arrays of weights")
    return arrays


@contextmanager
def _reading(path: Path | str) -> Iterator[None]:
    """What the operating system says against reading a file, with the remedy."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--weights: {path} cannot be read ({error.strerror or error}); make it a file that"
            " this user may read, or name another one"
        ) from error


def _read_params(path: Path) -> Arrays:
    loaded = mx.nd.load(str(path))
    named = loaded if isinstance(loaded, dict) else {}
    # export writes arg:NAME and aux:NAME; a file saved from a GPU is loaded onto one.
    return {name.split(":")[-1]: array.as_in_context(mx.cpu()) for name, array in named.items()}


def _read_onnx(path: Path) -> Arrays:
    """The floats among an ONNX file's initializers; the whole numbers are shapes."""
    import onnx  # only where such a file is read: it takes a while to import
    from google.protobuf.message import DecodeError

    try:
        tensors = onnx.load(str(path)).graph.initializer
    except DecodeError as error:
        raise ValueError(str(error)) from error
    named = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}
    return {n: mx.nd.array(a, dtype=a.dtype) for n, a in named.items() if a.dtype.kind == "f"}


def fill(net: mx.gluon.Block, arrays: Arrays, head: str) -> list[str]:
    """Put arrays into the parameters of net, except the head's, and return the names of these.

    net is initialised and its shapes are known; head is what its head's names begin with, as in
    'output.'. Names are places in the network ('features.0.gamma') or gluon's
    ('resnetv20_batchnorm0_gamma', whose prefix may differ). Raises UserError, before anything
    changed, unless there is an array of the same shape for each parameter and none is left over.
    """
    parameters = parameters_by_path(net)
    if not arrays.keys() & parameters.keys():
        arrays = _by_place(net, arrays)
    features = {n: p for n, p in parameters.items() if not n.startswith(head)}
    arrays = {n: array for n, array in arrays.items() if not n.startswith(head)}
    _check_fit({n: p.shape for n, p in features.items()}, {n: a.shape for n, a in arrays.items()})
    for name, parameter in features.items():
        parameter.set_data(arrays[name].astype(parameter.dtype))
    return list(features)


def _by_place(net: mx.gluon.Block, arrays: Arrays) -> Arrays:
    """arrays by place in net, where gluon's names say it; the others keep their names."""
    place_of = {
        p.name[len(net.prefix) :] if p.name.startswith(net.prefix) else p.name: place
        for place, p in parameters_by_path(net).items()
    }
    # The file's own prefix is what is left most often when such a name is taken off an end.
    left = Counter(n[: -len(end)] for n in arrays for end in place_of if n.endswith(end))
    prefix = left.most_common(1)[0][0] if left else ""
    by_name = {prefix + end: place for end, place in place_of.items()}
    return {by_name.get(name, name): array for name, array in arrays.items()}


def _check_fit(wanted: Shapes, given: Shapes) -> None:
    """Raise UserError unless both have the same names, and the same shape by each name."""
    differ = [
        f"{name}: file {given[name]}, network {wanted[name]}"
        for name in wanted
        if name in given and given[name] != wanted[name]
    ]
    lists = {
        "the network has and the file lacks": [n for n in wanted if n not in given],
        "the file has and the network lacks": [n for n in given if n not in wanted],
        "of another shape": differ,
    }
    if any(lists.values()):
        lines = [f"  {len(v)} {what}: {_first(v)}" for what, v in lists.items() if v]
        if _resnet(given) and _resnet(given) != _resnet(wanted):
            lines.append(f"  the file looks like one for --model {_resnet(given)}")
        else:
            lines.append("  name the --model that the file is of, or --weights of this one")
        raise UserError("\n".join(["the weights do not fit the network:", *lines]))


def _first(names: list[str]) -> str:
    rest = len(names) - NUM_SHOWN
    return ", ".join(names[:NUM_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _resnet(shapes: Shapes) -> str:
    """The residual network whose features have such shapes, or ''."""
    depth = RESNET_DEPTH.get(sum(len(shape) == 4 for shape in shapes.values()))
    version = 2 if (3,) in shapes.values() else 1  # the second normalises the picture's 3 channels
    return f"resnet{depth}_v{version}" if depth else ""


def main() -> None:
    """Prints the pretrained weights file that a training run would start from.

    A machine with a network can fetch it for one without. Exits with 69 where it cannot be had.
    """
    if len(sys.argv) != 3:
        sys.exit("usage: python -m dist_ft.models.pretrained auto|FILE MODEL")
    try:
        print(locate(sys.argv[1], sys.argv[2]))
    except UserError as error:
        print(f"dist_ft: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
