"""Builds a run from its Config: data set, plan, network, trainer, batches, and its last state."""

from __future__ import annotations

from dataclasses import replace
from typing import Iterator

import mxnet as mx

from dist_ft.config import Config
from dist_ft.data import image_cache
from dist_ft.data.dataset import Dataset
from dist_ft.data.image_folder import scan
from dist_ft.data.rank_batches import RankBatches
from dist_ft.data.transforms import InputSpec
from dist_ft.distributed import threads
from dist_ft.distributed.session import Commit
from dist_ft.distributed.trainer import HookedTrainer
from dist_ft.distributed.world import World
from dist_ft.evaluation.evaluator import Evaluator
from dist_ft.files import user_errors
from dist_ft.models import optimizers, parameters, precision, zoo
from dist_ft.models.loss_scale import UNSCALED, DynamicLossScale
from dist_ft.tracking.null_logger import NullLogger
from dist_ft.tracking.run_logger import RunLogger
from dist_ft.training import feature_cache, resume, schedule, startup_summary
from dist_ft.training.checkpoint import Checkpoint
from dist_ft.training.consistency import check_leaks, check_same_spec
from dist_ft.training.feature_cache import FeatureBatches
from dist_ft.training.network import Network, build_network
from dist_ft.training.resume import RunLock
from dist_ft.training.run import Run, RunOptions
from dist_ft.training.run_spec import RunSpec, describe
from dist_ft.training.saving import StateSaver
from dist_ft.training.schedule import Plan
from dist_ft.training.state import TrainingState
from dist_ft.training.step_sync import StepSync
from dist_ft.training.step_timing import StepTimer

SCAN_TIMEOUT_S = 3600.0  # a million files on a network file system


def build_run(config: Config, world: World) -> Run:
    """All parts of a run, in the state from which it starts or resumes; all ranks call it.

    Raises CollectiveError on all ranks.
    """
    dataset, run_spec = _read_dataset(config, world)
    plan, learning_rate = schedule.build_schedule(
        config, config.batch_size, len(dataset.train), world.size
    )
    run_spec["images per step"] = plan.batch_size  # with --scale-batch it depends on the ranks
    dtype = precision.fastest_dtype(world) if config.dtype == "auto" else config.dtype
    with world.raise_on_all_ranks():
        lock, source = _find_state(config, run_spec, world)
        network = build_network(
            config, len(dataset.classes), config.image_size, config.seed, dtype, not source, world
        )
        optimizer = optimizers.build(config.optimizer, config.momentum, config.wd)
        trainer = world.trainer(network.net.collect_params(), optimizer)
    restored = resume.restore(source, network.core, trainer, world)
    state = _state_of_run(restored or TrainingState(), config, run_spec, dataset, dtype, world)
    loss_scale = DynamicLossScale(*(state.loss_scale or ())) if dtype == "float16" else UNSCALED
    with world.raise_on_all_ranks():
        starts_over = config.resume == "never" and restored is None
        logger, lock = _open_logger(config, dataset, state, lock, starts_over, world)
    lines = _startup_lines(
        config, dataset, network, plan, learning_rate.peak, source, state.step, world
    )
    for line in lines:
        logger.info(line)
    sync = StepSync(world, state.epoch_sums)
    saver = StateSaver(
        config.folder, config.keep, world, network.core, trainer, sync, state, loss_scale
    )
    batches, trained_net = _open_batches(config, dataset, network, state.input_spec, world)
    timer = StepTimer(world, sync, batches.train_loader)
    if config.elastic:
        saver.commit()
    return Run(
        options=_run_options(config, network.core),
        world=world,
        dataset=dataset,
        batches=batches,
        plan=plan,
        learning_rate=learning_rate,
        core=network.core,
        net=network.net,
        trained_net=trained_net,
        trainer=HookedTrainer(trainer, before_allreduce=timer.end_gradients),
        loss_scale=loss_scale,
        state=state,
        sync=sync,
        timer=timer,
        saver=saver,
        evaluator=Evaluator(network.core, network.net, len(dataset.classes)),
        logger=logger,
        lock=lock,
    )


def _read_dataset(config: Config, world: World) -> tuple[Dataset, RunSpec]:
    """The data set, checked for leaks, and what identifies the run; equal on all ranks."""
    world.heartbeat("reading the data set", SCAN_TIMEOUT_S)
    with world.raise_on_all_ranks():
        dataset = scan(config.data)
        run_spec = describe(config.as_dict(), dataset)
        if world.is_main and not (config.allow_leak or world.session.last_commit):
            check_leaks(dataset)
    check_same_spec(run_spec, world)
    return dataset, run_spec


def _find_state(
    config: Config, run_spec: RunSpec, world: World
) -> tuple[RunLock | None, Checkpoint | Commit | None]:
    """Locks an existing folder of the run. Returns the lock and the state to start from: a
    checkpoint, the last commit of an elastic run, or None. Only rank 0 locks and reads."""
    lock: RunLock | None = None
    source: Checkpoint | Commit | None = world.session.last_commit
    if world.is_main and config.folder.is_dir():
        with user_errors(f"--out {config.folder}", remedy="choose another --out"):
            lock = RunLock(config.folder)
    if world.is_main and not source:
        source = resume.find_checkpoint(config.resume, config.folder, run_spec)
    return lock, source


def _state_of_run(
    state: TrainingState,
    config: Config,
    run_spec: RunSpec,
    dataset: Dataset,
    dtype: str,
    world: World,
) -> TrainingState:
    """The initial or restored state with the properties of this run."""
    return replace(
        state,
        run_spec=run_spec,
        num_ranks=world.size,
        dtype=dtype,
        classes=list(dataset.classes),
        input_spec=InputSpec(config.image_size, config.resize_px, config.keep_ratio),
    )


def _open_logger(
    config: Config,
    dataset: Dataset,
    state: TrainingState,
    lock: RunLock | None,
    starts_over: bool,
    world: World,
) -> tuple[NullLogger, RunLock | None]:
    """The logger, which writes on rank 0 only, and the lock on its folder."""
    if not world.is_main:
        return NullLogger(), None
    folder = config.folder
    with user_errors(f"--out {folder}", remedy="choose another --out"):
        if starts_over and resume.set_aside(folder):
            lock = None  # it was on the folder that now has another name
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock or RunLock(folder)
        logger = RunLogger(
            folder, config.as_dict(), dataset, state.input_spec, state.step, config.board_every
        )
    return logger, lock


def _startup_lines(
    config: Config,
    dataset: Dataset,
    network: Network,
    plan: Plan,
    peak_lr: float,
    source: Checkpoint | Commit | None,
    step: int,
    world: World,
) -> Iterator[str]:
    if isinstance(source, Commit):
        yield (
            f"continuing on {world.size} x {world.ctx} from step {step}"
            f" (before: {world.session.resized_from})"
        )
        return
    yield from startup_summary.describe_dataset(config.data, dataset)
    yield from startup_summary.describe_device(config.device, world.ctx)
    yield from startup_summary.describe_network(
        config.model, network.core, network.dtype, plan, peak_lr, world
    )
    if source:
        yield startup_summary.describe_resume(source.path, step, plan.num_steps)


def _open_batches(
    config: Config,
    dataset: Dataset,
    network: Network,
    spec: InputSpec,
    world: World,
) -> tuple[RankBatches | FeatureBatches, mx.gluon.HybridBlock]:
    """The batches, and the part of the network that is trained on them.

    If only the head is trained, the features of a few views of each image are computed once.
    """
    num_workers = config.num_workers or threads.set_num_threads()
    cache = None
    if config.cache != "off":
        cache = image_cache.open_cache(
            dataset,
            spec,
            config.cache_side_px,
            config.cache,
            config.cache_folder,
            num_workers,
            world,
        )
    batches = RankBatches(
        dataset, spec, config.seed, world.rank, world.size, num_workers, config.prefetch_mb, cache
    )
    extractor = None
    if config.views and parameters.has_frozen_backbone(network.core):
        extractor = zoo.feature_extractor(network.core)
    if extractor is None:
        return batches, network.net
    key = [config.model, config.seed, network.dtype, spec, cache and config.cache_side_px]
    num_views = min(config.views, config.epochs)  # each epoch uses one, in turn
    features = feature_cache.load_or_compute(
        extractor, batches, num_views, key, config.cache_folder, world
    )
    return FeatureBatches(batches, features), zoo.head(network.core)


def _run_options(config: Config, core: mx.gluon.HybridBlock) -> RunOptions:
    return RunOptions(
        folder=config.folder,
        log_every=config.log_every,
        check_every=config.check_every,
        save_every=config.save_every,
        commit_every=config.commit_every if config.elastic else None,
        patience=config.patience,
        max_bad_share=config.max_bad_share,
        dropout_seed=config.seed if zoo.has_dropout(core) else None,
        histograms=config.histograms,
    )
