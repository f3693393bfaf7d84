"""Finds pretrained weights: a file of the user, a published file on disk, or a download."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import mxnet as mx
from mxnet.gluon.model_zoo import model_store

from dist_ft.errors import Unavailable, UserError
from dist_ft.files import user_errors
from dist_ft.models import download, imgclsmob, zoo
from dist_ft.models.mxnet_internals import published_sha1

logger = logging.getLogger(__name__)

HUB = "https://huggingface.co"
# The ONNX Model Zoo. The revision is the last one that changed the folder.
ONNX_REVISIONS = ("813b930", "main")
ONNX_FOLDER = "validated/vision/classification/resnet/model/"
# The models that were exported from MXNet itself.
ONNX_SHA256 = {
    "resnet18-v2-7": "3b4d048057854022232aa20bf68262e31718ab7119a17f920b8a2dc1433f824b",
    "resnet34-v2-7": "3d3815e25f4b1ea967e2a526a3b27ef2a03af1725bdc199a63a271c26862d914",
    "resnet50-v2-7": "79102261eb6e5fd7af5d27f41316293e388c5cb691e5d25bfb035c4f64fefe31",
    "resnet101-v2-7": "3a0a819ea0953fb4700b0d98e43540aeee253e5b4c503c552b0c7979fc67767d",
}


class PublishedFile(NamedTuple):
    """A file of pretrained weights on a server."""

    name: str
    digest: str  # hexadecimal sha1 or sha256
    urls: tuple[str, ...]  # of the file, or of a zip archive that contains it

    def __str__(self) -> str:
        algorithm = "sha1" if len(self.digest) == 40 else "sha256"
        return f"{self.name} ({algorithm} {self.digest})"


def published_files(model: str) -> list[PublishedFile]:
    """The files that MXNet, gluoncv, the ONNX Model Zoo and imgclsmob publish for a network.

    The environment variables MXNET_GLUON_REPO and HF_ENDPOINT replace the servers of the first
    three. Raises UserError if there are no files.
    """
    name, files = model.lower(), []
    sha1_by_name = published_sha1(model_store)
    if name not in sha1_by_name:
        sha1_by_name = published_sha1(zoo.import_gluoncv(model).model_store)
    if name in sha1_by_name:
        stem = f"{name}-{sha1_by_name[name][:8]}"
        repo = os.environ.get("MXNET_GLUON_REPO", model_store.apache_repo_url).rstrip("/")
        url = f"{repo}/gluon/models/{stem}.zip"
        files.append(PublishedFile(f"{stem}.params", sha1_by_name[name], (url,)))
    stem = f"{name.replace('_', '-')}-7"
    if stem in ONNX_SHA256:
        repo = os.environ.get("HF_ENDPOINT", HUB).rstrip("/") + "/onnxmodelzoo/legacy_models"
        urls = (f"{repo}/resolve/{version}/{ONNX_FOLDER}{stem}.onnx" for version in ONNX_REVISIONS)
        files.append(PublishedFile(f"{stem}.onnx", ONNX_SHA256[stem], tuple(urls)))
    if name in imgclsmob.FILES:
        stem, sha1 = imgclsmob.FILES[name]
        file_name = f"{stem}-{sha1[:8]}.params"
        url = f"{imgclsmob.RELEASE}{file_name}.zip"
        files.append(PublishedFile(file_name, sha1, (url,)))
    if not files:
        raise UserError(
            f"--weights auto: no published weights for {model}; pass --weights FILE, or start from"
            " random weights with --weights none"
        )
    return files


def find_local(weights: str, model: str) -> Path | None:
    """The file that `locate` would return without a download; None if there is none.

    Raises UserError if the file that `weights` names does not exist or cannot be read, and if no
    weights are published for the model.
    """
    if weights == "none":
        return None
    if weights == "auto":
        for file in published_files(model):
            path = models_folder() / file.name
            with _readable(path):
                if download.has_digest(path, file.digest):
                    return path
        return None
    with _readable(weights):
        if Path(weights).is_file():
            return Path(weights)
    raise UserError(
        f"--weights {weights}: no such file; choose a .params or .onnx file, 'auto' to download"
        " weights, or 'none' for random ones"
    )


def _readable(path: Path | str):
    return user_errors(f"--weights {path}", "cannot be read", "choose another file")


def locate(weights: str, model: str) -> Path | None:
    """The weights file to start from; None for random weights.

    weights: 'none', 'auto', or a file. 'auto' looks in `models_folder` and downloads what is
    missing, from the first server that delivers it. Raises the errors of `find_local`, and
    Unavailable if none does.
    """
    local = find_local(weights, model)
    if local is not None or weights == "none":
        return local
    folder, errors = models_folder(), []
    for file in published_files(model):
        path = folder / file.name
        if path.exists():
            logger.warning("%s has the wrong digest; downloading it again", path)
        for url in file.urls:
            try:
                with user_errors(f"--weights auto: {path}", "set MXNET_HOME to another folder"):
                    download.fetch(url, path, file.digest)
                return path
            except download.DownloadError as error:
                errors.append(error)
                if not isinstance(error, download.NoConnectionError):
                    logger.warning("download failed: %s", error)
    raise Unavailable(_unavailable(model, folder, errors))


def _unavailable(model: str, folder: Path, errors: list[download.DownloadError]) -> str:
    """One line if no server can be reached, otherwise what each server did."""
    files = published_files(model)
    if all(isinstance(error, download.NoConnectionError) for error in errors):
        hosts = sorted({urlsplit(url).hostname or url for file in files for url in file.urls})
        return (
            f"no pretrained weights of {model} in {folder}, and no connection to"
            f" {' or '.join(hosts)}; put {files[0].name} there, pass --weights FILE, or start from"
            " random weights with --weights none"
        )
    lines = [
        f"no pretrained weights of {model} in {folder}, and no server delivers them:",
        *(f"  {error}" for error in errors),
        f"Put one of these files into {folder}, or pass it with --weights FILE:",
        *(f"  {file}" for file in files),
        "To start from random weights: --weights none",
    ]
    return "\n".join(lines)


def models_folder() -> Path:
    """MXNet's folder of downloaded models: $MXNET_HOME/models, or ~/.mxnet/models."""
    return Path(mx.base.data_dir()).expanduser() / "models"


def main(weights: str, model: str) -> None:
    """Prints the weights file that a training run would start from; downloads it if necessary."""
    logging.basicConfig(level=logging.INFO, format="dist_ft: %(message)s")
    try:
        print(locate(weights, model))
    except UserError as error:
        print(f"dist_ft: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m dist_ft.models.pretrained auto|FILE MODEL")
    main(*sys.argv[1:])
