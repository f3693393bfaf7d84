"""Builds the network that a run trains, with its weights and learning-rate multipliers."""

from __future__ import annotations

from typing import NamedTuple

import mxnet as mx

from dist_ft.config import ModelSettings
from dist_ft.distributed.world import World
from dist_ft.models import (
    batch_norm,
    parameters,
    precision,
    pretrained,
    weight_file,
    zoo,
)

DOWNLOAD_TIMEOUT_S = 3600.0  # for the watchdog; downloads have timeouts of their own


class Network(NamedTuple):
    core: mx.gluon.HybridBlock  # (n, 3, side, side) float32, normalised, to (n, C) logits
    net: mx.gluon.HybridBlock  # (n, side, side, 3) uint8 pixels to (n, C) logits
    dtype: str


def build_network(
    settings: ModelSettings,
    num_classes: int,
    image_size: int,
    seed: int,
    dtype: str,
    is_new: bool,
    world: World,
) -> Network:
    """The network on this rank's device.

    Rank 0 of a new run reads the pretrained weights; the others receive them from it, as all ranks
    do from a checkpoint. Raises UserError.
    """
    precision.use_dtype(dtype, world.ctx)
    core = zoo.build(settings.model, num_classes, image_size, seed)
    world.heartbeat("reading the pretrained weights", DOWNLOAD_TIMEOUT_S)
    if world.is_main and is_new:
        path = pretrained.locate(settings.weights, settings.model)
        if path:
            weight_file.load_backbone(path, core)
    parameters.set_lr_multipliers(
        core,
        settings.head_lr_mult,
        settings.backbone_lr_mult,
        settings.lr_mult,
        settings.freeze,
    )
    if settings.bn == "frozen":
        batch_norm.freeze(batch_norm.layers(core))
    core.collect_params().reset_ctx(world.ctx)
    return Network(core, zoo.with_normalization(core), dtype)
