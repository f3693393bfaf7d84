"""Exports a trained network to deploy it without this package: gluon files, int8, or ONNX."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Iterator

import mxnet as mx
import numpy as np

from dist_ft import files
from dist_ft.data.dataset import Split
from dist_ft.data.loader import Batch
from dist_ft.data.rank_batches import TEST_BATCH_SIZE
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.evaluation.evaluator import Network, forward
from dist_ft.inference import int8, onnx_model
from dist_ft.inference.model_evaluation import batches_of, labeled_split
from dist_ft.inference.trained_model import TrainedModel
from dist_ft.models import zoo
from dist_ft.text import as_json

TOLERANCE = 1e-3  # of a probability, between two implementations of float32


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
    batches: Iterable[Batch] = noise(model.spec.side)
    if data:
        test = labeled_split(data, "test", model.classes)
        batches = _test_batches(model, test, world, num_workers)
    if to == "int8":
        train = labeled_split(data, "train", model.classes)
        core = int8.quantize(core, int8.calibration_pixels(train, model.spec, num_workers))
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


def _test_batches(
    model: TrainedModel, test: Split, world: World, num_workers: int
) -> Iterator[Batch]:
    with batches_of(model, test, world, num_workers) as batches:
        yield from batches.test()


def noise(side: int) -> list[Batch]:
    """A batch of random pixels without labels."""
    num = TEST_BATCH_SIZE
    pixels = np.random.RandomState(0).randint(0, 256, (num, side, side, 3)).astype(np.uint8)
    return [Batch(pixels, np.full(num, -1, np.int32), np.ones(num, np.float32), np.arange(num))]


def _check(comparison: Comparison, to: str, equal_share: float, data: str) -> None:
    """Raises UserError if the export must not replace the network."""
    if not comparison.num_images:
        raise UserError(f"{data}: no test image can be read; nothing is written")
    problem = f"--to {to}: differs from the network: {comparison}; nothing is written"
    if to == "int8" and not comparison.keeps_labels(equal_share):
        raise UserError(
            f"{problem}, since --equal-share {equal_share:g} of the labels must be equal"
        )
    if to != "int8" and not comparison.is_same_network():
        raise UserError(problem)


def probabilities_from_pixels(core: mx.gluon.Block) -> mx.gluon.HybridBlock:
    """The network with everything that belongs to it, from uint8 pixels to probabilities."""
    net = mx.gluon.nn.HybridSequential()
    net.add(zoo.Normalize(), core, mx.gluon.nn.HybridLambda("softmax", prefix="softmax0_"))
    net.hybridize()
    return net


def write_gluon(core: mx.gluon.Block, model: TrainedModel, folder: Path) -> Network:
    """Writes the files of a network into a folder; returns the network that they contain."""
    net = probabilities_from_pixels(core)
    net(mx.nd.zeros((1, model.spec.side, model.spec.side, 3), dtype="uint8"))
    text = as_json(description(model), indent=1)
    (folder / "model.json").write_text(text, encoding="utf-8")
    with files.library_path(folder) as path, int8.no_type_warnings():
        net.export(f"{path}/model", epoch=0)
        symbol, parameters = f"{path}/model-symbol.json", f"{path}/model-0000.params"
        return mx.gluon.SymbolBlock.imports(symbol, ["data"], parameters)


def description(model: TrainedModel) -> dict[str, Any]:
    """What a program needs to know to use the export."""
    side, resize, keep_ratio = model.spec
    size = f"its shorter side is {resize} px" if keep_ratio else f"it is {resize} x {resize} px"
    return {
        "classes": list(model.classes),
        "input": f"uint8 RGB pixels (n, {side}, {side}, 3); the network normalizes them",
        "output": f"probabilities (n, {len(model.classes)})",
        "preprocessing": f"resize the upright image until {size}: average each direction that"
        " shrinks by more than two (as OpenCV's INTER_AREA), then interpolate bilinearly, without"
        f" antialiasing (as INTER_LINEAR); take the central {side} x {side} px",
        "image_size": side,
        "resize": resize,
        "keep_ratio": bool(keep_ratio),
        "model": model.model,
        "checkpoint": str(model.path),
        "step": model.step,
    }


@dataclass
class Comparison:
    """Counts of images, and the largest difference of a probability."""

    num_images: int = 0
    num_equal: int = 0  # with the same predicted class
    max_difference: float = 0.0  # inf if the export gives a value that is not finite
    num_labeled: int = 0
    correct: int = 0  # labeled images that the network classifies correctly
    correct_exported: int = 0  # and the export
    num_clearly_changed: int = 0  # labels that changed although the margin exceeds TOLERANCE

    def add(self, labels: np.ndarray, network: np.ndarray, exported: np.ndarray) -> None:
        """labels: (n,), -1 if unknown; network, exported: (n, C) probabilities."""
        expected, actual = network.argmax(axis=1), exported.argmax(axis=1)
        second, first = np.sort(network, axis=1)[:, -2:].T
        is_changed = (expected != actual) & (first - second > TOLERANCE)
        is_finite = np.isfinite(exported).all()
        difference = np.abs(network - exported).max(initial=0) if is_finite else math.inf
        self.num_images += len(labels)
        self.num_equal += int((expected == actual).sum())
        self.max_difference = max(self.max_difference, float(difference))
        self.num_clearly_changed += int(is_changed.sum())
        self.num_labeled += int((labels >= 0).sum())
        self.correct += int((expected == labels).sum())
        self.correct_exported += int((actual == labels).sum())

    def is_same_network(self) -> bool:
        """True if the differences are those of two float32 implementations."""
        has_same_labels = self.num_images > 0 and self.num_clearly_changed == 0
        return has_same_labels and self.max_difference <= TOLERANCE

    def keeps_labels(self, share: float) -> bool:
        """True if at least this share of the labels is equal."""
        is_finite = math.isfinite(self.max_difference)
        return is_finite and 0 < share * self.num_images <= self.num_equal

    def __str__(self) -> str:
        text = (
            f"{self.num_equal} of {self.num_images} labels equal, largest difference of a"
            f" probability {self.max_difference:.2g}"
        )
        if not self.num_labeled:
            return text
        before = self.correct / self.num_labeled
        after = self.correct_exported / self.num_labeled
        return f"{text}, accuracy {after:.4f} (the network's {before:.4f})"


def compare(
    network: Network, exported: Network, batches: Iterable[Batch], world: World
) -> Comparison:
    """Runs both networks, from uint8 pixels to probabilities, on the same images.

    Raises UserError if the first one gives a value that is not finite.
    """
    comparison = Comparison()
    first, second = itertools.tee(batches)
    runs = forward(network, first, world, "export"), forward(exported, second, world, "export")
    for (expected, batch), (actual, _) in zip(*runs):
        real = batch.mask > 0
        if not np.isfinite(expected[real]).all():
            raise UserError(
                "the network gives NaN or infinity, so it is of no use: its training has diverged;"
                " nothing is written; export another checkpoint"
            )
        comparison.add(batch.labels[real], expected[real], actual[real])
    return comparison
