"""Exports a trained network to deploy it without this package: gluon files, int8, or ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mxnet as mx

from dist_ft import files
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.evaluation.evaluator import Network
from dist_ft.inference import int8, onnx_model
from dist_ft.inference.export_comparison import Comparison, compare, noise
from dist_ft.inference.model_evaluation import labelled_split
from dist_ft.inference.split_images import split_batches
from dist_ft.inference.trained_model import TrainedModel
from dist_ft.models import zoo
from dist_ft.text import as_json


class Softmax(mx.gluon.HybridBlock):
    """Maps logits to probabilities."""

    def hybrid_forward(self, F, x):
        return F.softmax(x)


def export(
    model: TrainedModel,
    to: str,
    out: Path,
    world: World,
    data: str = "",
    equal_share: float = 0.97,
    num_workers: int = 1,
) -> Comparison | None:
    """Writes an export to `out`, completely or not at all, and compares it with the network.

    to: 'gluon', 'onnx' or 'int8'; world: of one process; data: a data set, whose test images are
    compared (else random noise) and whose training images calibrate int8; equal_share: of the
    labels, that int8 has to keep; num_workers: decoding threads. Returns None for ONNX without
    onnxruntime, which cannot be compared. Raises UserError if the export differs too much.
    """
    core = model.core(mx.cpu())
    network = probabilities_from_pixels(core)
    batches: Any = noise(model.spec.side)
    if data:
        test = labelled_split(data, "test", model.classes)
        batches = split_batches(test, model.spec, num_workers)
    if to == "int8":
        train = labelled_split(data, "train", model.classes)
        every = max(1, len(train) // int8.NUM_CALIBRATION_IMAGES)
        core = int8.quantize(core, split_batches(train, model.spec, num_workers, every))
    with (files.output_file if to == "onnx" else files.output_folder)(out, "--out") as temporary:
        if to == "onnx":
            onnx_model.write(core, model.spec.side, description(model), temporary)
            exported = onnx_model.load(temporary)
        else:
            exported = write_gluon(core, model, temporary)
        if exported is None:
            return None
        comparison = compare(network, exported, batches, world)
        _check(comparison, to, equal_share, data)
    return comparison


def _check(comparison: Comparison, to: str, equal_share: float, data: str) -> None:
    """Raises UserError if the export must not replace the network."""
    if not comparison.num_images:
        raise UserError(f"{data}: no test image can be read; nothing is written")
    if to == "int8" and not comparison.keeps_labels(equal_share):
        raise UserError(
            f"--to int8: differs from the network: {comparison}; nothing is written, since"
            f" --equal-share {equal_share:g} of the labels must be equal"
        )
    if to != "int8" and not comparison.is_same_network():
        raise UserError(f"--to {to}: differs from the network: {comparison}; nothing is written")


def probabilities_from_pixels(core: mx.gluon.Block) -> mx.gluon.HybridBlock:
    """The network with everything that belongs to it, from uint8 pixels to probabilities."""
    net = mx.gluon.nn.HybridSequential()
    net.add(zoo.Normalize(), core, Softmax())
    net.hybridize()
    return net


def write_gluon(core: mx.gluon.Block, model: TrainedModel, folder: Path) -> Network:
    """Writes the files of a network into a folder; returns the network that they contain."""
    net = probabilities_from_pixels(core)
    side = model.spec.side
    net(mx.nd.zeros((1, side, side, 3), dtype="uint8"))
    net.export(str(folder / "model"), epoch=0)
    text = as_json(description(model), indent=1)
    (folder / "model.json").write_text(text, encoding="utf-8")
    symbol, parameters = folder / "model-symbol.json", folder / "model-0000.params"
    with int8.no_type_warnings():
        return mx.gluon.SymbolBlock.imports(str(symbol), ["data"], str(parameters))


def description(model: TrainedModel) -> dict[str, Any]:
    """What a program needs to know to use the export."""
    side, resize, keep_ratio = model.spec
    size = f"its shorter side is {resize} px" if keep_ratio else f"it is {resize} x {resize} px"
    return {
        "classes": list(model.classes),
        "input": f"uint8 RGB pixels (n, {side}, {side}, 3); the network normalises them",
        "output": f"probabilities (n, {len(model.classes)})",
        "preprocessing": "resize the upright image, bilinear, without antialiasing (as OpenCV's"
        f" INTER_LINEAR), until {size}; take the central {side} x {side} px",
        "image_size": side,
        "resize": resize,
        "keep_ratio": bool(keep_ratio),
        "model": model.model,
        "checkpoint": str(model.path),
        "step": model.step,
    }
