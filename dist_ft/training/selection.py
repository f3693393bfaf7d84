"""Evaluates the network at the end of each epoch, and selects the best epoch."""

from __future__ import annotations

from dataclasses import dataclass

from dist_ft.data.rank_batches import RankBatches
from dist_ft.distributed.world import World
from dist_ft.evaluation.evaluator import Evaluation, Evaluator
from dist_ft.evaluation.metrics import Scores
from dist_ft.tracking.null_logger import NullLogger
from dist_ft.training.consistency import check_unreadable, merge
from dist_ft.training.feature_cache import FeatureBatches
from dist_ft.training.state import TrainingState


@dataclass
class Selection:
    """Evaluates the network as it is, and keeps count in the run's state; all ranks call it."""

    world: World
    batches: RankBatches | FeatureBatches
    evaluator: Evaluator
    state: TrainingState
    logger: NullLogger
    max_bad_share: float
    last_evaluation: Evaluation | None = None

    def evaluate(self) -> Evaluation:
        """Evaluates an epoch on the test images, and notes in the state if it is the best so far.

        Raises CollectiveError if too many of the images cannot be read.
        """
        batches, num_images = self.batches.test(), len(self.batches.dataset.test)
        evaluation = self.evaluator.evaluate(batches, num_images, self.world)
        self._report_unreadable(evaluation.scores)
        state, accuracy = self.state, evaluation.scores.accuracy
        state.selection_accuracy = accuracy
        state.epochs_without_improvement += 1
        if accuracy > state.best_accuracy:
            state.best_accuracy, state.epochs_without_improvement = accuracy, 0
        self.last_evaluation = evaluation
        return evaluation

    def _report_unreadable(self, scores: Scores) -> None:
        """Names the unreadable files of the epoch; every other test image must have been scored."""
        loader = self.batches.test_loader
        train_errors = merge(self.batches.train_loader.unreadable, self.world)
        test_errors = merge(loader.unreadable, self.world)
        assert scores.num_images + len(test_errors) == len(loader.split)
        check_unreadable(len(test_errors), self.max_bad_share, loader, self.world)
        self.logger.log_bad_images({**train_errors, **test_errors})
