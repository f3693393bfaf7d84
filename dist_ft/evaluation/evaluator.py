"""Runs a network over a split: the only code that does so outside of training steps."""

from __future__ import annotations

from typing import Callable, Iterable, Iterator, NamedTuple

import mxnet as mx
import numpy as np

from dist_ft.data.loader import Batch
from dist_ft.distributed.world import World
from dist_ft.errors import CollectiveError
from dist_ft.evaluation.delayed_reader import DelayedReader
from dist_ft.evaluation.metrics import FeatureSample, Metric, Outputs, PrecisionRecall, Scores
from dist_ft.evaluation.predictions import Predictions
from dist_ft.models import zoo

Network = Callable[[mx.nd.NDArray], mx.nd.NDArray]


def forward(
    net: Network, batches: Iterable[Batch], world: World, activity: str = "evaluation"
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Yields the network's output for the rows of each batch, (n, ...) float32, and the batch.

    Rows with a mask of 0 are computed, too. activity: what the watchdog reports if it hangs.
    """
    reader = DelayedReader()
    for batch in batches:
        world.heartbeat(activity)
        yield from reader.push(net(batch.x_on(world.ctx)).astype("float32"), batch)
    yield from reader.rest()


def evaluate(
    net: Network, batches: Iterable[Batch], num_classes: int, world: World, *metrics: Metric
) -> Scores:
    """The network's scores over all ranks' batches; `metrics` are computed along with them.

    net: maps (n, side, side, 3) uint8 to (n, C) logits, or to (n, C + D) logits and features.
    All ranks call it; the results are the same on all of them. Raises CollectiveError if a logit of
    any image is NaN or infinite, although all parameters may be finite.
    """
    scores, num_bad = Scores.zero(num_classes), 0
    for output, batch in forward(net, batches, world):
        real = batch.mask > 0
        logits = output[real, :num_classes].astype(np.float64)
        is_bad = ~np.isfinite(logits).all(axis=1)
        if is_bad.any():  # no metric is defined, but all ranks must walk through all batches
            num_bad += int(is_bad.sum())
            continue
        labels = batch.labels[real].astype(np.int64)
        outputs = Outputs(batch.indices[real], labels, logits, output[real, num_classes:])
        for metric in (scores, *metrics):
            metric.add(outputs)
    num_bad = int(world.sum([num_bad])[0])
    if num_bad:
        raise CollectiveError(
            f"the loss is not finite on {num_bad} of the images: the network gives NaN or infinity"
            " although its parameters are finite; nothing is saved; resume from an earlier"
            " checkpoint, or start again, with a smaller --lr, or --warmup-epochs or --clip-norm"
        )
    for metric in (scores, *metrics):
        metric.reduce(world)
    return scores


class Evaluation(NamedTuple):
    """Results for the images of a split, the same on all ranks."""

    scores: Scores
    predictions: Predictions
    precision_recall: PrecisionRecall
    features: FeatureSample


class Evaluator:
    """Evaluates a network between the epochs of its training.

    core: maps (n, 3, side, side) float32 to logits; net: the same network from uint8 pixels.
    Features are collected if the last layer of `core` is a dense one.
    """

    def __init__(self, core: mx.gluon.HybridBlock, net: Network, num_classes: int):
        features, self._num_classes = zoo.feature_extractor(core), num_classes
        self._net = net if features is None else _with_features(features, zoo.head(core))

    def evaluate(self, batches: Iterable[Batch], num_images: int, world: World) -> Evaluation:
        """All ranks call it.

        batches: this rank's, of pixels or of features; num_images: in the split, on all ranks.
        """
        predictions, curves = Predictions(), PrecisionRecall(self._num_classes)
        metrics = predictions, curves, FeatureSample(num_images)
        scores = evaluate(self._net, batches, self._num_classes, world, *metrics)
        return Evaluation(scores, *metrics)


def _with_features(extractor: Network, head: Network) -> Network:
    """Maps uint8 pixels, or features, to (n, C + D) logits and features."""

    def network(x: mx.nd.NDArray) -> mx.nd.NDArray:
        features = extractor(x) if x.dtype == np.uint8 else x
        columns = features.reshape((len(features), -1)).astype("float32")
        return mx.nd.concat(head(features).astype("float32"), columns, dim=1)

    return network
