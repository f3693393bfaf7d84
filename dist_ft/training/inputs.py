"""Reads a run's data set, and opens the batches that its network is trained and tested on."""

from __future__ import annotations

import mxnet as mx
import numpy as np

from dist_ft.config import Config
from dist_ft.data import image_cache, sources, validation_share
from dist_ft.data.augmentation import Augmentation
from dist_ft.data.class_weights import class_weights
from dist_ft.data.dataset import Dataset
from dist_ft.data.rank_batches import RankBatches
from dist_ft.data.targets import TargetRule
from dist_ft.data.transforms import InputSpec
from dist_ft.distributed import threads
from dist_ft.distributed.world import World
from dist_ft.models import parameters, zoo
from dist_ft.recipe_settings import AugmentationSettings
from dist_ft.training import consistency, feature_cache
from dist_ft.training.feature_cache import FeatureBatches
from dist_ft.training.run_spec import RunSpec, describe
from dist_ft.training.state import TrainingState

CLASS_WEIGHTS = "class weights"  # in a RunSpec: a list, if there are any
SLOW_START_S = 3600.0  # for the watchdog: a million files on a network file system, downloads


def read_dataset(config: Config, world: World) -> tuple[Dataset, RunSpec]:
    """The data set, checked for leaks, and what identifies the run; equal on all ranks."""
    world.heartbeat("reading the data set", SLOW_START_S)
    indices: list[int] = []
    with world.raise_on_all_ranks():
        dataset = sources.read(config)
        if world.is_main:  # the others' images are compared with these below
            indices = sources.choose_validation(config, dataset)
    dataset = validation_share.take(dataset, world.gather(indices)[0])
    with world.raise_on_all_ranks():
        run_spec = describe(config.as_dict(), dataset)
        if config.class_weights:  # compared by value: the file may change before a run resumes
            counts = np.bincount(dataset.train.labels, minlength=len(dataset.classes))
            counts = np.minimum(counts, 1) if config.balance else counts
            weights = class_weights(config.class_weights, dataset.classes, counts)
            run_spec[CLASS_WEIGHTS] = weights.tolist()
        if world.is_main and not (config.allow_leak or world.session.last_commit):
            consistency.check_leaks(dataset)
    consistency.check_same_spec(run_spec, world)
    return dataset, run_spec


def augmentation_of(settings: AugmentationSettings) -> Augmentation:
    """How training images are changed."""
    return Augmentation(
        min_area=settings.crop_scale,
        max_ratio=settings.crop_ratio,
        flip=settings.flip,
        jitter=settings.jitter,
        trivial_augment=settings.trivial_augment,
        random_erasing=settings.random_erasing,
    )


def open_images(
    config: Config, dataset: Dataset, spec: InputSpec, run_spec: RunSpec, world: World
) -> RankBatches:
    """The batches of images. All ranks must call this."""
    num_workers = config.num_workers or threads.set_num_threads()
    cache = None
    if config.cache != "off":
        side, folder = config.cache_side_px, config.cache_folder
        cache = image_cache.open_cache(
            dataset, spec, side, config.cache, folder, num_workers, world
        )
    return RankBatches(
        dataset,
        spec,
        config.seed,
        world.rank,
        world.size,
        num_workers,
        config.prefetch_mb,
        cache,
        augmentation_of(config),
        balance=config.balance,
        mixup=config.mixup,
        cutmix=config.cutmix,
        target_rule=TargetRule(config.label_smoothing, run_spec.get(CLASS_WEIGHTS)),
    )


def open_batches(
    config: Config,
    dataset: Dataset,
    core: mx.gluon.HybridBlock,
    net: mx.gluon.HybridBlock,
    state: TrainingState,
    world: World,
) -> tuple[RankBatches | FeatureBatches, mx.gluon.HybridBlock]:
    """The batches, and the part of the network that is trained on them.

    If only the head is trained, the features of a few views of each image are computed once.
    """
    spec, folder = state.input_spec, config.cache_folder
    batches = open_images(config, dataset, spec, state.run_spec, world)
    extractor = None
    if config.views and parameters.has_frozen_backbone(core):
        extractor = zoo.feature_extractor(core)
    if extractor is None:
        return batches, net
    cache_side = config.cache_side_px if batches.cache else None
    key = [config.model, config.seed, state.dtype, spec, cache_side]
    num_views = min(config.views, config.epochs)  # each epoch uses one, in turn
    features = feature_cache.load_or_compute(extractor, batches, num_views, key, folder, world)
    return FeatureBatches(batches, features), zoo.head(core)
