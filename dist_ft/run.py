"""One run put together: data, network, trainer, plan, record; how it is saved and gone on with."""

from __future__ import annotations

import time
import zlib
from itertools import count
from pathlib import Path
from typing import Iterator

import numpy as np

from dist_ft import checkpoint, facts, host, model, optimizer, schedule, weights
from dist_ft.board import Board, Hidden
from dist_ft.config import Config
from dist_ft.data import image, shard
from dist_ft.data.folder import Split, scan
from dist_ft.data.loader import Batch, Loader
from dist_ft.errors import Joint, UserError
from dist_ft.evaluate import Scores, evaluate
from dist_ft.runtime import Solo
from dist_ft.tally import StopRequest, Tally

TEST_BATCH = 50  # images a rank scores at once, for any number of ranks: scores do not depend on it
WEIGHTS_MAY_TAKE_S = 3600.0  # a download has time-outs of its own


class Run:
    """The parts of a training run, and the step that it has come to.

    Every rank has one and makes the same calls on it; an error on one rank ends them all.
    """

    def __init__(self, config: Config, world: Solo):
        self.config, self.world = config, world
        with world.together():
            self.folder = scan(config.data)
            self.facts = facts.of(config, self.folder)
        self._compare_facts()
        self.plan, self.rate = _schedule(config, len(self.folder.train), world.size)
        with world.together():
            found = _checkpoint_to_go_on_with(config, self.facts) if world.is_chief else None
            self.net = self._network(found)
            self.trainer = world.trainer(
                self.net.collect_params(),
                optimizer.build(config.optimizer, config.momentum, config.wd),
            )
        self.tally = Tally(world)
        self._take_up(found)
        with world.together():
            self.board = self._open_board(found)
        workers = config.num_workers or host.set_threads()
        self._train_loader = Loader(self.folder.train, config.image_size, workers)
        self._test_loader = Loader(self.folder.test, config.image_size, workers)
        self._since = time.perf_counter()

    # The start -----------------------------------------------------------------------------

    def _compare_facts(self) -> None:
        names, everyones = zip(*self.world.gather((self.world.name, self.facts)))
        differences = facts.between_ranks(everyones, names)
        if differences:
            raise Joint("the ranks were not started alike: " + "; ".join(differences))

    def _network(self, found: checkpoint.Checkpoint | None):
        """The network on this rank's device; on rank 0 with its pretrained weights in it."""
        c, num_classes = self.config, len(self.folder.classes)
        core = model.build(c.model, num_classes, c.image_size, c.seed)
        self.world.at("reading the pretrained weights", WEIGHTS_MAY_TAKE_S)
        if self.world.is_chief and not found:
            path = weights.locate(c.weights, c.model)
            if path:
                weights.fill(core, weights.read(path), model.head_of(core))
        model.set_rates(core, c.head_lr_mult, c.backbone_lr_mult, c.lr_mult, c.freeze)
        if c.bn == "frozen":
            model.freeze_batch_norm(model.batch_norms(core))
        core.collect_params().reset_ctx(self.world.ctx)
        self.core = core
        return model.on_pixels(core)

    def _take_up(self, found: checkpoint.Checkpoint | None) -> None:
        """Brings all ranks to rank 0's state: the beginning, or its checkpoint."""
        world = self.world
        state = world.gather(found.state if found else None)[0] or {}
        self.step = state.get("step", 0)
        self.best_accuracy = state.get("best_accuracy", -1.0)
        self.epochs_without_better = state.get("epochs_without_better", 0)
        self._elapsed_s = state.get("elapsed_s", 0.0)
        self.tally.start_epoch(**state.get("epoch_sums", {}))
        optimizer.prepare(self.trainer, self.step)
        arrays = {**model.arrays(self.core), **optimizer.arrays(self.trainer)}
        with world.together():
            if found:
                saved = {**found.net_arrays(), **found.trainer_arrays()}
                for name, array in arrays.items():
                    array[:] = saved[name]
        world.broadcast(arrays)

    def _open_board(self, found: checkpoint.Checkpoint | None):
        if not self.world.is_chief:
            return Hidden()
        c, world, folder = self.config, self.world, self.folder
        if c.resume == "never":
            _set_aside(c.folder)
        try:
            board = Board(c.folder, c.as_dict(), folder.classes, self.step)
        except OSError as error:
            raise UserError(
                f"--out {c.folder}: cannot be written ({error.strerror}): choose another --out"
            ) from error
        board.say(
            f"{c.data}: {len(folder.classes)} classes, {len(folder.train)} images to train on,"
            f" {len(folder.test)} to test on"
        )
        skipped = folder.train.skipped + folder.test.skipped
        if skipped:
            board.say(f"{len(skipped)} files are no images by their name: {', '.join(skipped[:5])}")
        board.say(
            f"{c.model} on {world.size} x {world.ctx}, {self.plan.batch_size} images a step,"
            f" {self.plan.steps_per_epoch} steps an epoch"
        )
        for group in model.groups(self.core):
            rate = f"rate {self.rate.peak * group.lr_mult:g}" if group.lr_mult else "frozen"
            board.say(f"  {group.name:9}{group.num_values:>12,} parameters  {rate}")
        if found:
            board.say(f"goes on from {found.path} (step {self.step} of {self.plan.num_steps})")
        return board

    # The steps -----------------------------------------------------------------------------

    def train_batches(self, epoch: int, steps: range) -> Iterator[Batch]:
        """This rank's shares of the steps, augmented."""
        c, world = self.config, self.world
        order = shard.train_order(c.seed, epoch, self.plan.num_images)

        def view(pixels: np.ndarray, index: int) -> np.ndarray:
            draws = shard.image_draws(c.seed, epoch, index, image.NUM_DRAWS)
            return image.train_view(pixels, c.image_size, draws)

        shares = (
            shard.rank_share(order[self.plan.images_of(step)], world.rank, world.size)
            for step in steps
        )
        self._train_loader.bad.clear()
        self.board.start_epoch(epoch, steps, self.tally, self._train_loader.waited_s)
        return self._train_loader.batches(shares, view)

    def exchange(self, step: int, batch: Batch, stop: StopRequest) -> int:
        """The step's number of images on all ranks, once the ranks have agreed to make it.

        Raises Joint where one was asked to stop (the run is saved first), where a loss has ceased
        to be finite, and where too many files are unreadable.
        """
        self.world.at(f"step {step}")
        if step == 0:
            self.board.batch(batch.x, step)
        word = self.tally.exchange(batch.num_images, len(self._train_loader.bad), stop.received)
        if word.stop:
            path = self._save()
            raise Joint(
                f"stopped by {word.stop.name} before step {step}; saved as {path}: the same command"
                " goes on from there",
                exit_code=128 + word.stop,
            )
        self._check_bad(word.num_bad, self._train_loader)
        return word.num_images

    def after(self, step: int) -> None:
        """What is due after a step: a point of the curves, a check, a checkpoint."""
        c = self.config
        self.step = step + 1
        self.board.step()
        if self.step % c.log_every == 0:
            epoch = self.plan.epoch_of(step) + 1
            self._draw_curves(f"epoch {epoch}, step {self.step}/{self.plan.num_steps}")
        if c.check_every and self.step % c.check_every == 0:
            self._compare_parameters()
        if c.save_every and self.step % c.save_every == 0:
            self._save()

    def end_epoch(self, epoch: int) -> Scores:
        """Scores on the test images, written down and saved with the state that they are of."""
        self.tally.settle()
        self._draw_curves()
        model.pool_batch_norm(self.core, self.world)
        self._check_finite()
        if not self.config.check_every:
            self._compare_parameters()
        scores = evaluate(self.net, self._test_batches(), len(self.folder.classes), self.world)
        self._account_for_bad(scores)
        if scores.accuracy > self.best_accuracy:
            self.best_accuracy, self.epochs_without_better = scores.accuracy, 0
        else:
            self.epochs_without_better += 1
        train = {"loss": self.tally.loss, "accuracy": self.tally.accuracy}
        self.board.end_epoch(epoch, self.step, train, scores, self._elapsed())
        if self.step % self.plan.steps_per_epoch == 0:
            self.tally.start_epoch()
            self._elapsed_s, self._since = 0.0, time.perf_counter()
        self._save(test_accuracy=scores.accuracy)
        return scores

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do: all steps made, or --patience spent."""
        patience = self.config.patience
        spent = bool(patience) and self.epochs_without_better >= patience
        return spent or self.step >= self.plan.num_steps

    def close(self) -> None:
        c, best = self.config, self.best_accuracy
        self._train_loader.close()
        self._test_loader.close()
        self.board.close(c.as_dict())
        self.board.say(
            f"best test acc {best:.3f}; {c.folder} holds curves.png, scores.jsonl and checkpoints\n"
            f"look at it with: tensorboard --logdir {c.folder}"
        )

    # Their parts ---------------------------------------------------------------------------

    def _draw_curves(self, place: str = "") -> None:
        lr, waited_s = self.rate.at(self.step - 1), self._train_loader.waited_s
        self.board.curves(self.step, place, self.tally, lr, waited_s)

    def _test_batches(self) -> Iterator[Batch]:
        c, world = self.config, self.world
        shares = shard.test_shares(len(self.folder.test), TEST_BATCH, world.rank, world.size)
        self._test_loader.bad.clear()
        return self._test_loader.batches(
            shares,
            lambda pixels, _: image.test_view(pixels, c.image_size, c.resize_px, c.keep_ratio),
        )

    def _account_for_bad(self, scores: Scores) -> None:
        """Every image was scored, or is named as unreadable."""
        train_bad, test_bad = {}, {}
        for train, test in self.world.gather((self._train_loader.bad, self._test_loader.bad)):
            train_bad.update(train)
            test_bad.update(test)
        assert scores.num_images + len(test_bad) == len(self.folder.test)
        self._check_bad(len(test_bad), self._test_loader)
        self.board.bad_images({**train_bad, **test_bad})

    def _check_bad(self, num_bad: int, loader: Loader) -> None:
        split: Split = loader.split
        if num_bad > self.config.max_bad_share * len(split):
            told = [words for bad in self.world.gather(dict(loader.bad)) for words in bad.values()]
            raise Joint(
                f"{num_bad} of {len(split)} images in {split.root} cannot be read, which is more"
                f" than --max-bad-share {self.config.max_bad_share}: " + "; ".join(told[:5])
            )

    def _check_finite(self) -> None:
        """Raises Joint where an update has overflowed, which the losses show one step later."""
        for name, array in model.arrays(self.core).items():
            if not np.isfinite(array.asnumpy()).all():
                raise Joint(
                    f"{name} is not finite after {self.step} steps, and is not saved: go on from"
                    " the last checkpoint with a smaller --lr, or with --clip-norm"
                )

    def _compare_parameters(self) -> None:
        """Raises Joint where a rank's parameters are not rank 0's to the last bit."""
        digests = [
            (name, zlib.crc32(array.asnumpy().tobytes()))
            for name, array in model.arrays(self.core).items()
            if "running_" not in name  # each rank's own, until they are pooled
        ]
        for name, theirs in self.world.gather((self.world.name, digests)):
            for (parameter, mine), (_, other) in zip(digests, theirs):
                if mine != other:
                    raise Joint(f"after {self.step} steps {parameter} differs on {name}")

    def _save(self, **more) -> Path:
        """Writes a checkpoint on rank 0 of the state that all ranks are in."""
        self.world.at("checkpoint")
        if not more:
            self.tally.settle()
            model.pool_batch_norm(self.core, self.world)
            self._check_finite()
        c = self.config
        state = {
            "step": self.step,
            "best_accuracy": self.best_accuracy,
            "epochs_without_better": self.epochs_without_better,
            "elapsed_s": self._elapsed(),
            "epoch_sums": self.tally.as_dict(),
            "facts": self.facts,
            "classes": list(self.folder.classes),
            "view": {"image_size": c.image_size, "resize": c.resize_px, "keep_ratio": c.keep_ratio},
            **more,
        }
        path = None
        with self.world.together():
            if self.world.is_chief:
                arrays = model.arrays(self.core), optimizer.arrays(self.trainer)
                path = checkpoint.save(c.folder, state, *arrays, keep=c.keep)
        return path

    def _elapsed(self) -> float:
        """Seconds that the epoch has taken so far, before and after a stop."""
        return self._elapsed_s + time.perf_counter() - self._since


def _schedule(config: Config, num_images: int, size: int):
    """The steps of the run, and the rate at each."""
    batch_size, lr = config.batch_size, config.lr
    if config.scale_batch:
        batch_size, lr = schedule.scaled(batch_size, lr, size, config.lr_scaling)
    plan = schedule.Plan(num_images, batch_size, config.epochs, config.max_steps)
    warmup = config.warmup_epochs
    if warmup is None:
        warmup = min(5, config.epochs) if config.scale_batch else 0
    rate = schedule.Rate(
        lr,
        config.epochs * plan.steps_per_epoch,
        config.schedule,
        round(warmup * plan.steps_per_epoch),
        tuple(round(epoch * plan.steps_per_epoch) for epoch in config.step_epochs),
        config.step_factor,
        config.poly_power,
    )
    return plan, rate


def _checkpoint_to_go_on_with(config: Config, now: facts.Facts):
    """The last whole checkpoint that --resume names; None to begin anew.

    Raises UserError where it belongs to a run of other settings, or is not there.
    """
    if config.resume == "never":
        return None
    run = config.folder if config.resume == "auto" else Path(config.resume)
    found = checkpoint.latest(run)
    if found is None:
        if config.resume == "auto":
            return None
        raise UserError(f"--resume {config.resume}: no whole checkpoint in {run / 'checkpoints'}")
    if run.resolve() != config.folder.resolve() and checkpoint.latest(config.folder):
        raise UserError(f"--out {config.folder}: holds a run already; choose another")
    differences = facts.since_checkpoint(found.state["facts"], now)
    if differences:
        raise UserError(
            f"{run} is a run of other settings ({'; '.join(differences)}): choose another --out, or"
            " --resume never, which sets it aside"
        )
    return found


def _set_aside(run: Path) -> None:
    if run.exists() and any(run.iterdir()):
        aside = (run.with_name(f"{run.name}.{number}") for number in count(1))
        run.rename(next(path for path in aside if not path.exists()))
