"""A checkpoint as a network to deploy: `python -m dist_ft.export RUN --to onnx --out food.onnx`.

Pixels go in, (n, side, side, 3) uint8 RGB, and probabilities come out, (n, classes). gluon and int8
write a folder: model-symbol.json and model-0000.params for gluon.SymbolBlock.imports, and beside
them model.json with the classes and what is done to a picture before; onnx writes one file, with
the same as its metadata. What was written is read back and compared with the network on the test
images of --data, else on noise; where they differ, nothing is left. int8 cannot be the same: it has
to keep --equal-share of the labels. ONNX is compared where onnxruntime is installed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, NamedTuple

from dist_ft.distributed import threads

THREADS = threads.bind_cores()  # before MXNet is loaded, which reads them

import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402
from mxnet.contrib import quantization  # noqa: E402

from dist_ft import cli, files  # noqa: E402
from dist_ft.config import Config  # noqa: E402
from dist_ft.data import decoding, transforms  # noqa: E402
from dist_ft.data.dataset import Split  # noqa: E402
from dist_ft.data.loader import Loader  # noqa: E402
from dist_ft.data.rank_batches import TEST_BATCH_SIZE  # noqa: E402
from dist_ft.data.transforms import InputSpec  # noqa: E402
from dist_ft.distributed import startup  # noqa: E402
from dist_ft.errors import UserError  # noqa: E402
from dist_ft.inference import onnx_model, trained_model  # noqa: E402
from dist_ft.inference.model_evaluation import labelled_split  # noqa: E402
from dist_ft.inference.trained_model import TrainedModel  # noqa: E402
from dist_ft.models import zoo  # noqa: E402
from dist_ft.text import as_json  # noqa: E402

HELP = "folder of a run, whose best checkpoint is used, or of a checkpoint"
TOLERANCE = 1e-3  # of a probability, for what computes in float32
EQUAL_SHARE = 0.97  # of labels, that int8 has to keep
CALIBRATED_ON = 1000  # training images; with 200, outputs beyond their range flip sure labels

Classifier = Callable[[np.ndarray], np.ndarray]  # (n, side, side, 3) uint8 to (n, C) float32


class Probabilities(mx.gluon.HybridBlock):
    """Logits to probabilities."""

    def hybrid_forward(self, F, x):
        return F.softmax(x)


def on_pixels(core: mx.gluon.Block) -> mx.gluon.HybridBlock:
    """The network with all that belongs to it: pixels to probabilities."""
    net = mx.gluon.nn.HybridSequential()
    net.add(zoo.Normalize(), core, Probabilities())
    net.hybridize()
    return net


def classifier(net: mx.gluon.Block) -> Classifier:
    return lambda x: net(mx.nd.array(x, dtype="uint8")).asnumpy()


class Shown(NamedTuple):
    """Images as a network sees them, and what they show."""

    x: np.ndarray  # (n, side, side, 3) uint8
    labels: np.ndarray | None  # (n,), where anybody knows


class Comparison(NamedTuple):
    """Of an export with the network."""

    num_images: int
    num_equal: int  # labels
    num_clear: int  # labels that differ where the network itself was sure by more than TOLERANCE
    largest: float  # difference of a probability
    num_labelled: int = 0  # images whose class is known,
    correct: int = 0  # that the network gets right,
    correct_exported: int = 0  # and that the export does

    def is_good(self, to: str, equal_share: float = EQUAL_SHARE) -> bool:
        """Whether the export, of that kind, may take the network's place."""
        if to == "int8":
            kept = 0 < equal_share * self.num_images <= self.num_equal
            return kept and math.isfinite(self.largest)
        return self.num_images > 0 and self.num_clear == 0 and self.largest <= TOLERANCE

    def __str__(self) -> str:
        told = (
            f"{self.num_equal} of {self.num_images} labels equal, largest difference of a"
            f" probability {self.largest:.2g}"
        )
        if not self.num_labelled:
            return told
        before, after = (c / self.num_labelled for c in (self.correct, self.correct_exported))
        return f"{told}, accuracy {after:.4f} (the network's {before:.4f})"


def compare(network: Classifier, export: Classifier, batches: Iterable[Shown]) -> Comparison:
    made = Comparison(0, 0, 0, 0.0)
    for x, labels in batches:
        ours, theirs = network(x), export(x)
        top, taken, taken_now = np.sort(ours, axis=1), ours.argmax(axis=1), theirs.argmax(axis=1)
        is_sure = top[:, -1] - top[:, -2] > TOLERANCE
        farthest = np.abs(ours - theirs).max() if np.isfinite(theirs).all() else np.inf
        known = taken[:0] if labels is None else labels
        made = Comparison(
            made.num_images + len(x),
            made.num_equal + int((taken == taken_now).sum()),
            made.num_clear + int((is_sure & (taken != taken_now)).sum()),
            max(made.largest, float(farthest)),
            made.num_labelled + len(known),
            made.correct + int((taken[: len(known)] == known).sum()),
            made.correct_exported + int((taken_now[: len(known)] == known).sum()),
        )
    return made


def quantized(core: mx.gluon.HybridBlock, batches: Iterable[Shown]) -> mx.gluon.Block:
    """The network in int8, as MXNet and oneDNN compute it on a CPU; its weights are stored in
    float32 and quantised as they are loaded.

    batches: over which the ranges of the layers' outputs are taken.
    """
    shown = [x for x, _ in batches]
    if not shown:
        raise UserError("--to int8: none of the training images can be read, to calibrate with")
    pixels = np.concatenate(shown)
    x = zoo.Normalize()(mx.nd.array(pixels, dtype="uint8"))
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # it would announce itself
    with _untold_types():
        return quantization.quantize_net_v2(
            core,
            quantized_dtype="int8",  # keeps 0.98 of ResNet34_v2's labels; 'auto', with uint8, 0.93
            quantize_granularity="channel-wise",
            exclude_layers=_left_in_float(json.loads(core(mx.sym.var("data")).tojson())["nodes"]),
            calib_data=mx.io.NDArrayIter(x, batch_size=min(TEST_BATCH_SIZE, len(pixels))),
            calib_mode="naive",
            ctx=mx.cpu(),
        )


def _left_in_float(nodes: list[dict[str, Any]]) -> list[str]:
    """Names of a symbol's operations that int8 would cost the most labels.

    The first convolution, of the pixels; and the head, where means over an image are as small as
    a step of the range that single pixels of it have.
    """
    operations = [node for node in nodes if node["op"] != "null"]
    first = next(node["name"] for node in operations if node["op"] == "Convolution")
    kinds = [node.get("attrs", {}).get("pool_type") for node in operations]
    means = [place for place, kind in enumerate(kinds) if kind == "avg"]
    head = operations[means[-1] if means else -1 :]
    return [first, *(node["name"] for node in head)]


def views_of(split: Split, views: InputSpec, every: int = 1) -> Iterator[Shown]:
    """Every so many-th image as a test shows it to the network."""
    loader = Loader(split, views.side, THREADS, Config.prefetch_mb)

    def fill(index: int, row: np.ndarray) -> None:
        row[:] = transforms.center_crop(decoding.decode(split.read(index)), *views)

    indices = np.arange(0, len(split), every)
    parts = np.array_split(indices, -(-len(indices) // TEST_BATCH_SIZE))
    shares = ((part, np.ones(len(part), np.float32)) for part in parts)
    try:
        for batch in loader.batches(shares, fill):
            if batch.num_images:
                yield Shown(batch.x[batch.mask > 0], batch.labels[batch.mask > 0])
    finally:
        loader.close()


def noise(side: int) -> Iterator[Shown]:
    pixels = np.random.RandomState(0).randint(0, 256, (TEST_BATCH_SIZE, side, side, 3))
    yield Shown(pixels.astype(np.uint8), None)


def described(found: TrainedModel) -> dict[str, Any]:
    """What has to be known to use the export."""
    side, resize, keep_ratio = found.spec
    fit = f"its shorter side is {resize} px" if keep_ratio else f"it is {resize} x {resize} px"
    return {
        "classes": list(found.classes),
        "input": f"uint8 RGB pixels (n, {side}, {side}, 3); they are normalised inside",
        "output": f"probabilities (n, {len(found.classes)})",
        "preprocessing": "resize the upright image, bilinear, without antialiasing (as OpenCV's"
        f" INTER_LINEAR), until {fit}; take the central {side} x {side} px",
        **{"image_size": side, "resize": resize, "keep_ratio": bool(keep_ratio)},
        **{"model": found.model, "checkpoint": str(found.path), "step": found.step},
    }


def write_gluon(core: mx.gluon.Block, found: TrainedModel, folder: Path) -> Classifier:
    """Writes the files of a network into a folder; returns what they hold."""
    net = on_pixels(core)
    net(mx.nd.zeros((1, found.spec.side, found.spec.side, 3), dtype="uint8"))
    net.export(str(folder / "model"), epoch=0)
    text = as_json(described(found), indent=1)
    (folder / "model.json").write_text(text, encoding="utf-8")
    parts = str(folder / "model-symbol.json"), ["data"], str(folder / "model-0000.params")
    with _untold_types():
        return classifier(mx.gluon.SymbolBlock.imports(*parts))


@contextmanager
def _untold_types() -> Iterator[None]:
    """Gluon warns of an input whose type no layer needs to know; each run tells it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Cannot decide type")
        yield


def export(
    found: TrainedModel, to: str, out: Path, data: str = "", equal_share: float = EQUAL_SHARE
) -> Comparison | None:
    """Writes the export; whole or absent. Raises UserError where it is not as good as the network.

    Returns how it compares; None for ONNX without onnxruntime, which could not be compared.
    to: 'gluon', 'onnx' or 'int8'; data: a folder of images, whose test images are compared on, and
    whose training images calibrate int8; equal_share: of labels, that int8 has to keep.
    """
    core = found.core(mx.cpu())
    network = classifier(on_pixels(core))
    views = found.spec
    batches = (
        views_of(labelled_split(data, "test", found.classes), views) if data else noise(views.side)
    )
    if to == "int8":
        train = labelled_split(data, "train", found.classes)
        core = quantized(core, views_of(train, views, max(1, len(train) // CALIBRATED_ON)))
    with (files.output_file if to == "onnx" else files.output_folder)(out, "--out") as beside:
        if to == "onnx":
            onnx_model.write(core, views.side, described(found), beside)
            written = onnx_model.running(beside)
        else:
            written = write_gluon(core, found, beside)
        made = compare(network, written, batches) if written else None
        if made and not made.num_images:
            raise UserError(f"{data}: none of its test images can be read: nothing is written")
        if made and not made.is_good(to, equal_share):
            remedy = f"; --equal-share {equal_share:g} of the labels have to stay"
            raise UserError(
                f"--to {to}: not as the network: {made}: nothing is written"
                f"{remedy if to == 'int8' else ''}"
            )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dist_ft.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag("checkpoint", metavar="RUN", help=HELP)
    flag("--to", required=True, choices=("gluon", "onnx", "int8"), help="int8 is gluon's for a CPU")
    flag("--out", required=True, type=Path, metavar="PATH", help="folder, or file of onnx")
    flag("--data", default="", metavar="DIR", help="images, as of dist_ft.train; int8 takes them")
    cli.add_share(parser, "--equal-share", EQUAL_SHARE, "of the labels, that int8 has to keep")
    args = parser.parse_args()
    if args.to == "int8" and not args.data:
        parser.error("--to int8: takes images to calibrate with: --data DIR")
    with cli.standard_output(), startup.start("cpu") as world:
        if world.size > 1:
            raise UserError("dist_ft.export is for one process: leave horovodrun out")
        found = trained_model.load(Path(args.checkpoint))
        made = export(found, args.to, args.out, args.data, args.equal_share)
        on = "the test images" if args.data else "random noise, for want of --data"
        untried = "not compared, for want of onnxruntime: pip install onnxruntime"
        print(f"{args.out}: {f'{made}, on {on}' if made else untried}")
