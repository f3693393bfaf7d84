"""One run put together: data, network, trainer, plan, record; how it is saved and gone on with."""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Iterator

import mxnet as mx
import numpy as np

from dist_ft.config import Config
from dist_ft.data import image_cache, sampler
from dist_ft.data.image_folder import scan
from dist_ft.data.loader import Batch
from dist_ft.data.rank_batches import RankBatches
from dist_ft.data.transforms import InputSpec
from dist_ft.distributed import threads
from dist_ft.distributed.rank_failure import is_rank_failure
from dist_ft.distributed.trainer import HookedTrainer
from dist_ft.distributed.world import World
from dist_ft.errors import CollectiveError, RankStopped, UserError, WorldResized
from dist_ft.evaluation.evaluator import Evaluation, Evaluator
from dist_ft.evaluation.scores import Scores
from dist_ft.models import (
    backbone,
    batch_norm,
    optimizers,
    parameters,
    precision,
    pretrained,
    transfer,
    weight_file,
    zoo,
)
from dist_ft.models.loss_scale import UNSCALED, DynamicLossScale
from dist_ft.tracking.epoch_scores import RankTimes
from dist_ft.tracking.null_logger import NullLogger
from dist_ft.tracking.run_logger import RunLogger
from dist_ft.training import (
    checkpoint,
    consistency,
    feature_cache,
    resume,
    run_spec,
    schedule,
    startup_summary,
    step_timing,
)
from dist_ft.training.step_sync import STOPS, StepStatus, StepSync, StopRequest
from dist_ft.training.step_timing import Clock

WEIGHTS_MAY_TAKE_S = 3600.0  # a download has time-outs of its own
READING_MAY_TAKE_S = 3600.0  # a million files of a network's file system


class Run:
    """The parts of a training run, and the step that it has come to.

    Every rank has one and makes the same calls on it; an error on one rank ends them all.
    """

    def __init__(self, config: Config, world: World):
        self.config, self.world = config, world
        self.spec = InputSpec(config.image_size, config.resize_px, config.keep_ratio)
        self._claim: resume.RunLock | None = None
        world.heartbeat("reading the data set", READING_MAY_TAKE_S)
        with world.raise_on_all_ranks():
            self.dataset = scan(config.data)
            self.facts = run_spec.of(config, self.dataset)
            if world.is_main and not (config.allow_leak or world.session.last_commit):
                consistency.apart(self.dataset)
        consistency.started_alike(self.facts, world)
        self.plan, self.rate = schedule.of(config, len(self.dataset.train), world.size)
        self.facts["images a step"] = self.plan.batch_size  # --scale-batch makes it the ranks'
        self.dtype = precision.fastest_dtype(world) if config.dtype == "auto" else config.dtype
        with world.raise_on_all_ranks():
            found = world.session.last_commit
            if world.is_main and config.folder.is_dir():
                with _written_to(config.folder):
                    self._claim = resume.RunLock(config.folder)
            if world.is_main and not found:
                found = resume.find(config.resume, config.folder, self.facts)
            self.net = self._network(found)
            self.trainer = world.trainer(
                self.net.collect_params(),
                optimizers.build(config.optimizer, config.momentum, config.wd),
            )
        self.clock = Clock(world.size)
        self.trainer = HookedTrainer(self.trainer, before_allreduce=self.clock.has_gradients)
        self.sync = StepSync(world)
        self._take_up(found)
        with world.raise_on_all_ranks():
            self.logger = self._open_board(found)
        self._since = time.perf_counter()
        self.batches, self.trained_net = self._feed()
        self.evaluator = Evaluator(self.core, self.net, len(self.dataset.classes))
        self._evaluation: Evaluation | None = None  # the last one
        if config.elastic:
            self.commit()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self.batches.close()
        if not isinstance(error, UserError):  # such as one of a full disk: the board has it too
            self.logger.close()
        if self._claim:
            self._claim.give_up()
        kept = self.world.session.last_commit
        if kept and self.world.is_main and is_rank_failure(error):  # nobody else may save it
            with suppress(UserError):
                arrays = kept.net_arrays(), kept.trainer_arrays()
                checkpoint.save(self.config.folder, kept.state, *arrays, keep=self.config.keep)

    # The start -----------------------------------------------------------------------------

    def _network(self, found: checkpoint.Checkpoint | None):
        """The network on this rank's device; on rank 0 with its pretrained weights in it."""
        c, num_classes = self.config, len(self.dataset.classes)
        precision.use_dtype(self.dtype, self.world.ctx)
        core = zoo.build(c.model, num_classes, c.image_size, c.seed)
        self.world.heartbeat("reading the pretrained weights", WEIGHTS_MAY_TAKE_S)
        if self.world.is_main and not found:
            path = pretrained.locate(c.weights, c.model)
            if path:
                transfer.copy_backbone(weight_file.read(path), core)
        parameters.set_lr_multipliers(core, c.head_lr_mult, c.backbone_lr_mult, c.lr_mult, c.freeze)
        if c.bn == "frozen":
            batch_norm.freeze(batch_norm.layers(core))
        core.collect_params().reset_ctx(self.world.ctx)
        self.core, self._draws = core, zoo.has_dropout(core)
        return zoo.with_normalization(core)

    def _take_up(self, found: checkpoint.Checkpoint | None) -> None:
        """Brings all ranks to one state: the beginning, rank 0's checkpoint, or the last that
        those who outlived a loss have kept; one of them may have come a commit further."""
        world = self.world
        world.heartbeat("taking up a state")
        states = world.gather(found.state if found else {})
        root = max(range(world.size), key=lambda rank: states[rank].get("step", -1))
        state = states[root]
        self.step = state.get("step", 0)
        self.best_accuracy = state.get("best_accuracy", -1.0)
        self.epochs_without_better = state.get("epochs_without_better", 0)
        self._test_accuracy = state.get("test_accuracy")
        self._elapsed_s = state.get("elapsed_s", 0.0)
        self.sync.start_epoch(**state.get("epoch_sums", {}))
        self.loss_scale = UNSCALED
        if self.dtype == "float16":
            self.loss_scale = DynamicLossScale(*state.get("loss_scale", ()))
        optimizers.create_state(self.trainer, self.step)
        arrays = {**parameters.arrays(self.core), **optimizers.state_arrays(self.trainer)}
        with world.raise_on_all_ranks():
            if found:
                saved = {**found.net_arrays(), **found.trainer_arrays()}
                for name, array in arrays.items():
                    array[:] = saved[name]
        world.broadcast(arrays, root)
        self._goes_on = bool(state)

    def _open_board(self, found: checkpoint.Checkpoint | None):
        if not self.world.is_main:
            return NullLogger()
        c, world, folder, peak_lr = self.config, self.world, self.dataset, self.rate.peak
        with _written_to(c.folder):
            if c.resume == "never" and not self._goes_on and resume.set_aside(c.folder):
                self._claim = None  # of what has another name now
            c.folder.mkdir(parents=True, exist_ok=True)
            self._claim = self._claim or resume.RunLock(c.folder)
            board = RunLogger(c.folder, c.as_dict(), folder, self.spec, self.step, c.board_every)
        if world.session.last_commit:
            board.info(
                f"on {world.size} x {world.ctx} from step {self.step}"
                f" (on {world.session.resized_from})"
            )
            return board
        for line in (
            *startup_summary.about_images(c.data, folder),
            *startup_summary.about_device(c.device, world.ctx),
            *startup_summary.about_network(
                c.model, self.core, self.dtype, self.plan, peak_lr, world
            ),
        ):
            board.info(line)
        if found and self.step < self.plan.num_steps:
            board.info(f"goes on from {found.path} (step {self.step} of {self.plan.num_steps})")
        elif found:
            more = "--epochs and --max-steps say how far it goes"
            board.info(f"{found.path} has made all of {self.plan.num_steps} steps already; {more}")
        return board

    def _feed(self):
        """The batches, and the part of the network that the steps go through: all of it, or the
        head where features are kept."""
        c, world = self.config, self.world
        views, num_workers, packs = self.spec, c.num_workers or threads.set_num_threads(), None
        if c.cache != "off":
            kept = c.cache_side_px, c.cache, c.cache_folder
            packs = image_cache.open_cache(self.dataset, views, *kept, num_workers, world)
        share = c.seed, world.rank, world.size
        feed = RankBatches(self.dataset, views, *share, num_workers, c.prefetch_mb, packs)
        frozen = backbone.frozen_feature_extractor(self.core) if c.views else None
        if frozen is None:
            return feed, self.net
        made_of = [c.model, c.seed, self.dtype, views, packs and c.cache_side_px]
        num_views = min(c.views, c.epochs)  # of which the first epochs see one each
        features = feature_cache.load_or_compute(
            frozen, feed, num_views, made_of, c.cache_folder, world
        )
        return feature_cache.FeatureBatches(feed, features), backbone.head(self.core)

    # The steps -----------------------------------------------------------------------------

    def epochs(self) -> Iterator[tuple[int, range]]:
        """(epoch, its steps still to be made), until all are made or --patience is exhausted."""
        for epoch, steps in self.plan.epochs_from(self.step):
            if self.is_over:
                return
            yield epoch, steps

    def train_batches(self, epoch: int, steps: range) -> Iterator[Batch]:
        """This rank's shares of the steps, augmented."""
        self.logger.start_epoch(epoch, steps, self.sync, self.batches.train_loader.waited_s)
        self.clock.start_epoch(steps, self._reading())
        return self.batches.train(epoch, map(self.plan.images_of, steps))

    def begin_step(self, step: int, batch: Batch, stop: StopRequest) -> int:
        """The step's number of images on all ranks, once the ranks have agreed to make it.

        Raises CollectiveError where one was asked to stop (the run is saved first), where a loss
        has ceased to be finite, and where too many files are unreadable. Of an elastic run those
        alone who were asked stop, by RankStopped; the others raise WorldResized, as all do where
        hosts have come.
        """
        self.world.heartbeat(f"step {step}")
        if self._draws:  # a step's dropout does not depend on the steps before it, nor on a resume
            mx.random.seed(
                sampler.step_seed(self.config.seed, step, self.world.rank), self.world.ctx
            )
        if step == 0 and batch.x.dtype == np.uint8:  # pixels, not features
            self.logger.log_batch(batch.x, step)
        word = self.sync.exchange(
            batch.num_images, len(self.batches.train_loader.unreadable), stop.received
        )
        if word.stop:
            self._stop(word, step, stop)
        if word.resize:
            self.commit()
            raise WorldResized
        consistency.readable(
            word.num_bad, self.config.max_bad_share, self.batches.train_loader, self.world
        )
        self.clock.start_step(step)
        return max(1, word.num_images)  # 0 where every file is unreadable: the gradient is 0, too

    def end_step(self, step: int, sums: mx.nd.NDArray, num_images: int) -> None:
        """What is due after a step: a point of the curves, a check, a checkpoint."""
        c = self.config
        self.sync.push(sums, num_images, step)
        self.step, self._test_accuracy = step + 1, None
        self.logger.step()
        if self.step % c.log_every == 0:
            epoch = self.plan.epoch_of(step) + 1
            self._draw_curves(f"epoch {epoch}, step {self.step}/{self.plan.num_steps}")
        if c.check_every and self.step % c.check_every == 0:
            consistency.held_alike(parameters.arrays(self.core), self.step, self.world)
        ends_epoch = self.step % self.plan.steps_per_epoch == 0  # and is saved with its scores
        if c.save_every and self.step % c.save_every == 0 and not ends_epoch:
            self._save()
        if c.elastic and self.step % c.commit_every == 0 and not ends_epoch:
            self.commit()

    def commit(self) -> None:
        """Keeps the state that all ranks are in, for those who outlive the loss of one."""
        self._settle()
        self.world.session.commit(
            self._state(), parameters.arrays(self.core), optimizers.state_arrays(self.trainer)
        )

    def end_epoch(self, epoch: int) -> Scores:
        """Scores on the test images, written down and saved with the state that they are of."""
        self.sync.settle()
        ranks = self._accounts()
        self._draw_curves()
        batch_norm.pool_statistics(self.core, self.world)
        consistency.finite(parameters.arrays(self.core), self.step)
        if not self.config.check_every:
            consistency.held_alike(parameters.arrays(self.core), self.step, self.world)
        num_images = len(self.dataset.test)
        evaluation = self.evaluator.evaluate(self.batches.test(), num_images, self.world)
        scores, self._evaluation = evaluation.scores, evaluation
        self._account_for_bad(scores)
        if scores.accuracy > self.best_accuracy:
            self.best_accuracy, self.epochs_without_better = scores.accuracy, 0
        else:
            self.epochs_without_better += 1
        train = {"loss": self.sync.loss, "accuracy": self.sync.accuracy}
        with self.world.raise_on_all_ranks(), _written_to(self.config.folder):
            elapsed_s, times = self._elapsed(), [RankTimes(**a.as_row()) for a in ranks]
            self.logger.end_epoch(epoch, self.step, train, evaluation, elapsed_s, times)
            if self.config.histograms:
                self.logger.log_histograms(self.core, self.trainer, epoch, self.step)
        slow = step_timing.word(ranks)
        if slow:
            self.logger.info(slow)
        if self.step % self.plan.steps_per_epoch == 0:
            self.sync.start_epoch()
            self._elapsed_s, self._since = 0.0, time.perf_counter()
        self._test_accuracy = scores.accuracy
        self._save()
        if self.config.elastic:
            self.commit()
        return scores

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do: all steps made, or --patience spent."""
        patience = self.config.patience
        spent = bool(patience) and self.epochs_without_better >= patience
        return spent or self.step >= self.plan.num_steps

    def finish(self) -> None:
        c, best = self.config, self.best_accuracy
        with self.world.raise_on_all_ranks(), _written_to(c.folder):
            self.logger.end_run(self._evaluation)
        viewer = "tensorboard"
        if not shutil.which(viewer):  # an environment that was not activated
            viewer = os.path.relpath(Path(sys.executable).with_name(viewer))
        self.logger.info(
            f"best test acc {best:.3f}; {c.folder} holds curves.png, scores.jsonl and checkpoints\n"
            f"look at it with: {viewer} --logdir {c.folder}"
        )

    # Their parts ---------------------------------------------------------------------------

    def _draw_curves(self, place: str = "") -> None:
        lr, waited_s = self.rate.at(self.step - 1), self.batches.train_loader.waited_s
        with _written_to(self.config.folder):
            self.logger.log_steps(self.step, place, self.sync, lr, waited_s)

    def _reading(self) -> step_timing.Reading:
        device_s = self.sync.waited_s + self.clock.waited_s
        data_s, ranks_s = self.batches.train_loader.waited_s, self.world.waited_s
        return step_timing.Reading(time.perf_counter(), data_s, device_s, ranks_s)

    def _accounts(self) -> list[step_timing.Account]:
        """What the epoch's steps took each rank."""
        world = self.world
        return world.gather(self.clock.account(world.rank, world.host, self._reading()))

    def _account_for_bad(self, scores: Scores) -> None:
        """Every image was scored, or is named as unreadable."""
        train_bad, test_bad = {}, {}
        mine = self.batches.train_loader.unreadable, self.batches.test_loader.unreadable
        for train, test in self.world.gather(mine):
            train_bad.update(train)
            test_bad.update(test)
        assert scores.num_images + len(test_bad) == len(self.dataset.test)
        consistency.readable(
            len(test_bad), self.config.max_bad_share, self.batches.test_loader, self.world
        )
        self.logger.log_bad_images({**train_bad, **test_bad})

    def _stop(self, word: StepStatus, step: int, stop: StopRequest) -> None:
        """Saves the run, and ends it; an elastic one only for those who were asked to stop."""
        path = self._save()
        what = f"stopped by {word.stop.name} before step {step}; saved as {path}"
        if self.world.session.ends_run(word.num_asked):
            self.logger.draw_figures()
            self.logger.close()
            raise CollectiveError(f"{what}: the same command goes on from there", STOPS[word.stop])
        self.commit()
        if stop.received:
            raise RankStopped(f"{what}; the other ranks go on", STOPS[stop.received])
        raise WorldResized

    def _settle(self) -> None:
        """Brings what is only summed at times up to this step."""
        self.sync.settle()
        batch_norm.pool_statistics(self.core, self.world)

    def _save(self) -> Path:
        """Writes a checkpoint on rank 0 of the state that all ranks are in."""
        self.world.heartbeat("checkpoint")
        if self._test_accuracy is None:  # else all was settled before the test, and is as it was
            self._settle()
            consistency.finite(parameters.arrays(self.core), self.step)
        with self.world.raise_on_all_ranks():
            if self.world.is_main:
                arrays = parameters.arrays(self.core), optimizers.state_arrays(self.trainer)
                checkpoint.save(self.config.folder, self._state(), *arrays, self.config.keep)
        return checkpoint.place(self.config.folder, self.step)

    def _state(self) -> dict[str, Any]:
        """What a checkpoint holds besides arrays."""
        c = self.config
        tested = {} if self._test_accuracy is None else {"test_accuracy": self._test_accuracy}
        return {
            "step": self.step,
            **tested,
            "best_accuracy": self.best_accuracy,
            "epochs_without_better": self.epochs_without_better,
            "elapsed_s": self._elapsed(),
            "epoch_sums": self.sync.as_dict(),
            "dtype": self.dtype,
            "ranks": self.world.size,
            **self.loss_scale.state(),
            "facts": self.facts,
            "classes": list(self.dataset.classes),
            "view": {"image_size": c.image_size, "resize": c.resize_px, "keep_ratio": c.keep_ratio},
        }

    def _elapsed(self) -> float:
        """Seconds that the epoch has taken so far, before and after a stop."""
        return self._elapsed_s + time.perf_counter() - self._since


@contextmanager
def _written_to(run: Path) -> Iterator[None]:
    """What the operating system says against writing there, with the remedy."""
    try:
        yield
    except BrokenPipeError:  # of the standard output, whose reader has seen enough
        raise
    except OSError as error:
        raise UserError(
            f"--out {run}: cannot be written ({error.strerror}): choose another --out"
        ) from error
