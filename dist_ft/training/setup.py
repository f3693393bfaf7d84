"""Builds a run from its Config: data set, plan, network, trainer, batches, and its last state."""

from __future__ import annotations

from dataclasses import replace
from typing import Iterator

import mxnet as mx

from dist_ft.config import Config
from dist_ft.data.dataset import Dataset
from dist_ft.data.transforms import InputSpec
from dist_ft.distributed.session import Commit
from dist_ft.distributed.trainer import HookedTrainer
from dist_ft.distributed.world import World
from dist_ft.evaluation.evaluator import Evaluator
from dist_ft.files import user_errors
from dist_ft.models import (
    batch_norm,
    optimizers,
    parameters,
    precision,
    pretrained,
    weight_file,
    zoo,
)
from dist_ft.models.loss_scale import UNSCALED, DynamicLossScale
from dist_ft.models.weight_average import WeightAverage
from dist_ft.settings import ConfigError
from dist_ft.tracking.null_logger import NullLogger
from dist_ft.tracking.run_logger import RunLogger
from dist_ft.training import resume, startup_summary
from dist_ft.training.inputs import CLASS_WEIGHTS, SLOW_START_S, open_batches, read_dataset
from dist_ft.training.resume import RunLock, Source
from dist_ft.training.run import Run, RunOptions
from dist_ft.training.run_spec import RunSpec
from dist_ft.training.saving import StateSaver
from dist_ft.training.schedule import LearningRate, Plan, build_schedule
from dist_ft.training.selection import Selection
from dist_ft.training.state import TrainingState
from dist_ft.training.step_sync import StepSync
from dist_ft.training.step_timing import StepTimer


def build_run(config: Config, world: World) -> Run:
    """All parts of a run, in the state from which it starts or resumes; all ranks call it.

    Raises CollectiveError on all ranks.
    """
    dataset, run_spec = read_dataset(config, world)
    plan, learning_rate = build_schedule(config, config.batch_size, len(dataset.train), world.size)
    run_spec["images per step"] = plan.batch_size  # with --scale-batch it depends on the ranks
    dtype = precision.fastest_dtype(world) if config.dtype == "auto" else config.dtype
    with world.raise_on_all_ranks():
        lock, source = _find_state(config, run_spec, world)
        core = _build_network(config, len(dataset.classes), dtype, not source, world)
        net = zoo.with_normalization(core)
        optimizer = optimizers.build(config.optimizer, config.momentum, config.wd)
        trainer = world.trainer(net.collect_params(), optimizer)
        average = WeightAverage(core, config.ema)
    restored = resume.restore(source, average, trainer, world)
    state = _state_of_run(restored, config, run_spec, dtype, world)
    loss_scale = DynamicLossScale(*(state.loss_scale or ())) if dtype == "float16" else UNSCALED
    with world.raise_on_all_ranks():
        starts_over = config.resume == "never" and restored is None
        logger, lock = _open_logger(config, dataset, state, lock, starts_over, world)
    for line in _startup_lines(config, dataset, core, plan, learning_rate, source, state, world):
        logger.info(line)
    sync = StepSync(world, state.epoch_sums)
    saver = StateSaver(config.folder, config.keep, world, average, trainer, sync, state, loss_scale)
    batches, trained_net = open_batches(config, dataset, core, net, state, world)
    timer = StepTimer(world, sync, batches.train_loader)
    evaluator = Evaluator(core, net, len(dataset.classes))
    if config.elastic:
        saver.commit()
    return Run(
        options=_run_options(config, core),
        world=world,
        batches=batches,
        plan=plan,
        learning_rate=learning_rate,
        core=core,
        net=net,
        trained_net=trained_net,
        average=average,
        trainer=HookedTrainer(trainer, before_allreduce=timer.end_gradients),
        loss_scale=loss_scale,
        state=state,
        sync=sync,
        timer=timer,
        saver=saver,
        selection=Selection(world, batches, core, evaluator, state, logger, config.max_bad_share),
        logger=logger,
        lock=lock,
    )


def _find_state(config: Config, run_spec: RunSpec, world: World) -> tuple[RunLock | None, Source]:
    """Locks an existing folder of the run, and finds the state to start from, both on rank 0."""
    lock = None
    source: Source = world.session.last_commit
    if world.is_main and config.folder.is_dir():
        with user_errors(f"--out {config.folder}", remedy="choose another --out"):
            lock = RunLock(config.folder)
    if world.is_main and not source:
        source = resume.find_checkpoint(config.resume, config.folder, run_spec)
    return lock, source


def _build_network(
    config: Config, num_classes: int, dtype: str, is_new: bool, world: World
) -> mx.gluon.HybridBlock:
    """The network on this rank's device: normalized float32 (n, 3, side, side) to logits.

    Rank 0 of a new run reads the pretrained weights; the others receive them from it, as all ranks
    do from a checkpoint. Raises UserError.
    """
    precision.use_dtype(dtype, world.ctx)
    core = zoo.build(config.model, num_classes, config.image_size, config.seed)
    world.heartbeat("reading the pretrained weights", SLOW_START_S)
    path = pretrained.locate(config.weights, config.model) if world.is_main and is_new else None
    if path:
        weight_file.load_backbone(path, core)
    parameters.set_lr_multipliers(
        core,
        config.head_lr_mult,
        config.backbone_lr_mult,
        config.lr_mult,
        config.freeze,
        config.layer_decay,
    )
    if config.bn == "frozen":
        batch_norm.freeze(batch_norm.layers(core))
    if (config.mixup or config.cutmix) and config.views and parameters.has_frozen_backbone(core):
        raise ConfigError(
            f"--mixup {config.mixup:g} --cutmix {config.cutmix:g}: pixels cannot be mixed, because"
            " only the head is trained, on cached features; pass --views 0, which computes the"
            " features of the mixed images in every epoch"
        )
    core.collect_params().reset_ctx(world.ctx)
    return core


def _state_of_run(
    restored: TrainingState | None, config: Config, run_spec: RunSpec, dtype: str, world: World
) -> TrainingState:
    """The restored or initial state with the properties of this run."""
    return replace(
        restored or TrainingState(),
        run_spec=run_spec,
        num_ranks=world.size,
        dtype=dtype,
        classes=run_spec["classes"],
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
    folder, settings, spec = config.folder, config.as_dict(), state.input_spec
    with user_errors(f"--out {folder}", remedy="choose another --out"):
        if starts_over and resume.set_aside(folder):
            lock = None  # it was on the folder that now has another name
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock or RunLock(folder)
        return RunLogger(folder, settings, dataset, spec, state.step, config.board_every), lock


def _startup_lines(
    config: Config,
    dataset: Dataset,
    core: mx.gluon.HybridBlock,
    plan: Plan,
    learning_rate: LearningRate,
    source: Source,
    state: TrainingState,
    world: World,
) -> Iterator[str]:
    """What the run prints before its first step."""
    step, num_steps = state.step, plan.num_steps
    if isinstance(source, Commit):  # of an elastic run
        before = world.session.resized_from
        yield f"continuing on {world.size} x {world.ctx} from step {step} (before: {before})"
        return
    weights = state.run_spec.get(CLASS_WEIGHTS)
    yield from startup_summary.describe_dataset(config.data, dataset)
    yield from startup_summary.describe_classes(dataset, config.balance, weights)
    yield from startup_summary.describe_device(config.device, world.ctx, state.dtype)
    yield from startup_summary.describe_network(
        config.model, core, state.dtype, plan, learning_rate.peak, world
    )
    if config.ema:
        yield f"  evaluated and saved: their moving average with decay {config.ema:g}"
    if source and step < num_steps:
        yield f"resuming from {source.path} at step {step} of {num_steps}"
    elif source:
        yield f"{source.path} has made all {num_steps} steps; increase --epochs or --max-steps"


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
