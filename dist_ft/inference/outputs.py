"""The outputs of a network besides its logits: features, and the logits of each place."""

from __future__ import annotations

import math
from typing import NamedTuple

import mxnet as mx
import numpy as np

from dist_ft.errors import UserError
from dist_ft.inference.trained_model import TrainedModel
from dist_ft.models import class_activation


class ImageOutputs(NamedTuple):
    """Of n images; D and k are 0 for what `Outputs` does not include."""

    logits: np.ndarray  # (n, C)
    features: np.ndarray  # (n, D): the head's inputs
    places: np.ndarray  # (n, k, k, C): the logits of each place, whose means are the logits

    @property
    def maps(self) -> np.ndarray:
        """(n, k, k): the class-activation maps of the predicted classes."""
        return self.places[np.arange(len(self.places)), :, :, self.logits.argmax(axis=1)]


class Outputs:
    """Puts the outputs side by side into the columns of one array, and divides it again."""

    def __init__(self, model: TrainedModel, features: bool = False, places: bool = False):
        self._model, self._features, self._places = model, features, places
        self.num_features = 0  # known after `graph`

    def graph(self, logits: mx.sym.Symbol) -> mx.sym.Symbol:
        """The graph of all outputs; see `TrainedModel.network`. Raises UserError."""
        columns, side = [logits], self._model.spec.side
        if self._features:
            features = class_activation.head_inputs(logits)
            if features is None:
                raise UserError(
                    f"--features: {self._model.model} does not end with a dense layer, whose inputs"
                    " would be the features"
                )
            _, ((_, self.num_features),), _ = features.infer_shape(data=(1, side, side, 3))
            columns.append(features)
        if self._places:
            places = class_activation.logits_by_place(logits, side)
            if places is None:
                raise UserError(
                    f"--explain: {self._model.model} has no class-activation maps, because it does"
                    " not end with global average pooling and a dense layer"
                )
            columns.append(places.flatten())
        if len(columns) == 1:
            return logits
        # With a 16-bit type, AMP gives them different types.
        return mx.sym.concat(*(column.astype("float32") for column in columns), dim=1)

    def divide(self, output: np.ndarray) -> ImageOutputs:
        """The parts of the network's output, (n, columns)."""
        num_classes = len(self._model.classes)
        ends = np.cumsum([num_classes, self.num_features])
        logits, features, places = np.split(output, ends, axis=1)
        side = math.isqrt(places.shape[1] // num_classes)
        return ImageOutputs(logits, features, places.reshape(len(output), side, side, num_classes))
