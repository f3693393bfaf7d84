"""Evaluates the network at the end of each epoch, selects the best epoch, and scores it on test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mxnet as mx

from dist_ft.data.rank_batches import RankBatches
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.evaluation.evaluator import Evaluation, Evaluator
from dist_ft.evaluation.metrics import Scores
from dist_ft.files import user_errors
from dist_ft.models import parameters
from dist_ft.tracking import test_scores
from dist_ft.tracking.null_logger import NullLogger
from dist_ft.tracking.test_scores import TestScores
from dist_ft.training import checkpoint
from dist_ft.training.checkpoint import Checkpoint
from dist_ft.training.consistency import check_unreadable, merge
from dist_ft.training.feature_cache import FeatureBatches
from dist_ft.training.state import TrainingState


@dataclass
class Selection:
    """Evaluates the network, and notes in the run's state which epoch is the best.

    All ranks call its methods. They raise CollectiveError if too many images cannot be read.
    """

    world: World
    batches: RankBatches | FeatureBatches
    core: mx.gluon.HybridBlock
    evaluator: Evaluator  # of `core`
    state: TrainingState
    logger: NullLogger
    max_bad_share: float
    last_evaluation: Evaluation | None = None

    def evaluate(self) -> Evaluation:
        """Evaluates an epoch on the images that select the best one."""
        state = self.state
        evaluation = self.last_evaluation = self._evaluate(self.batches.dataset.selection_name)
        state.selection_accuracy = accuracy = evaluation.scores.accuracy
        state.epochs_without_improvement += 1
        if accuracy > state.best_accuracy:
            state.best_accuracy, state.epochs_without_improvement = accuracy, 0
        return evaluation

    def score_test(self, run: Path) -> TestScores | None:
        """Scores the best checkpoint of the folder `run` on the test images, unless it has been.

        None if the data set has no val, as the test images have selected the checkpoint then, or no
        test. Raises UserError if there is no checkpoint, or if the scores cannot be written.
        """
        dataset, world = self.batches.dataset, self.world
        if dataset.val is None or dataset.test is None:
            return None
        best, saved, step, val_accuracy = None, None, 0, 0.0
        with world.raise_on_all_ranks():
            if world.is_main:
                best, saved = _find_best(run), test_scores.read(run)
                step, val_accuracy = best.step, best.accuracy
        saved, step, val_accuracy = world.gather((saved, step, val_accuracy))[0]
        fingerprint = self.state.run_spec["test images"]
        if saved and (saved.step, saved.fingerprint) == (step, fingerprint):
            return saved
        scores = self._evaluate_checkpoint(best, "test").scores
        result = TestScores(
            step=step,
            val_accuracy=val_accuracy,
            loss=scores.loss,
            accuracy=scores.accuracy,
            accuracy_top5=scores.accuracy_top5,
            correct=scores.correct,
            images=scores.num_images,
            confusion=scores.confusion.tolist(),
            fingerprint=fingerprint,
        )
        with world.raise_on_all_ranks(), user_errors(f"--out {run}", remedy="free some space"):
            self.logger.log_test(result)
        return result

    def _evaluate_checkpoint(self, found: Checkpoint | None, split: str) -> Evaluation:
        """Evaluates a checkpoint, which only rank 0 needs to have, instead of the network as it is.

        The network keeps its parameters.
        """
        arrays = parameters.arrays(self.core)
        # Horovod cannot broadcast the network's own arrays, which an evaluation has left in the
        # layout of oneDNN.
        values = {name: mx.nd.zeros(a.shape, a.context, a.dtype) for name, a in arrays.items()}
        with self.world.raise_on_all_ranks():
            saved = found.net_arrays() if found else {}
            for name, value in saved.items():
                values[name][:] = value
        self.world.broadcast(values)
        with parameters.replaced(arrays, values):
            return self._evaluate(split)

    def _evaluate(self, split: str) -> Evaluation:
        batches, num_images = self.batches.in_order(split), len(self.batches.dataset.splits[split])
        evaluation = self.evaluator.evaluate(batches, num_images, self.world)
        self._report_unreadable(split, evaluation.scores)
        return evaluation

    def _report_unreadable(self, split: str, scores: Scores) -> None:
        """Names the unreadable files of the epoch; all other images must have been scored."""
        loader = self.batches.loaders[split]
        train_errors = merge(self.batches.train_loader.unreadable, self.world)
        errors = merge(loader.unreadable, self.world)
        assert scores.num_images + len(errors) == len(loader.split)
        check_unreadable(len(errors), self.max_bad_share, loader, self.world)
        self.logger.log_bad_images({**train_errors, **errors})


def _find_best(run: Path) -> Checkpoint:
    best = checkpoint.best(run)
    if best is None:
        raise UserError(
            f"{run / 'checkpoints'}: has no complete checkpoint, so the test images cannot be"
            " scored; resume the run in the folder where it was trained"
        )
    return best
