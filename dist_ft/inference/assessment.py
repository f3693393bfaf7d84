"""Scores of a checkpoint on a folder of labelled images: `python -m dist_ft.evaluate RUN DATA`.

DATA has a folder a class, or such folders in DATA/test (or DATA/val), or is RecordIO archives. Its
classes are the checkpoint's by their names; it need not have all of them. Under horovodrun the
counts are the same, only sooner. The exit status is 1 where an image cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Sequence

from dist_ft.distributed import launcher

THREADS = launcher.take_cores()  # before MXNet is loaded, which reads them

import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402

from dist_ft import cli, files  # noqa: E402
from dist_ft.config import Config  # noqa: E402
from dist_ft.data import image_folder, recordio  # noqa: E402
from dist_ft.data.dataset import Dataset, DatasetError, Split  # noqa: E402
from dist_ft.data.loader import Batch  # noqa: E402
from dist_ft.data.rank_batches import RankBatches  # noqa: E402
from dist_ft.distributed import startup  # noqa: E402
from dist_ft.evaluation.calibration import Reliability, reliability  # noqa: E402
from dist_ft.evaluation.confidence_intervals import bootstrap, wilson  # noqa: E402
from dist_ft.evaluation.confusion import by_class  # noqa: E402
from dist_ft.evaluation.evaluator import TOP, Scores, evaluate  # noqa: E402
from dist_ft.inference import trained_model  # noqa: E402
from dist_ft.inference.trained_model import TrainedModel  # noqa: E402
from dist_ft.text import as_json, on_one_line  # noqa: E402
from dist_ft.tracking import figures  # noqa: E402

MATRIX = 20  # classes, up to which the confusion matrix is printed


def labelled(data: str, name: str, classes: Sequence[str]) -> Split:
    """The images of a data set's split, or of DATA/CLASS/*, labelled as the checkpoint has it.

    name: 'test' or 'train'; classes: the checkpoint's. Raises FolderError where there are none, and
    for a class that the checkpoint does not know.
    """
    root = Path(data)
    if recordio.has_archives(root):
        found = image_folder.scan(data)
        names, split = found.classes, getattr(found, name)
    else:
        kinds = ("test", "val") if name == "test" else ("train",)
        root = next((root / kind for kind in kinds if (root / kind).is_dir()), root)
        if not root.is_dir():
            raise DatasetError(f"{root}: no such folder")
        names = image_folder.list_classes(root)
        split = image_folder.list_images(root, names)
    if not split.paths:
        raise DatasetError(f"{root}: no class directory with images in it")
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise DatasetError(
            f"{root}: has the classes {', '.join(unknown)}, which the checkpoint does not know; it"
            f" knows {', '.join(classes)}"
        )
    places = [classes.index(own) for own in names]
    return replace(split, labels=tuple(places[label] for label in split.labels))


class Outcomes(NamedTuple):
    """What a network made of each readable image, (n,), in the order of the images."""

    labels: np.ndarray
    predicted: np.ndarray
    losses: np.ndarray
    confidence: np.ndarray  # the probability of what it was taken for

    def of(self, num_classes: int, weights: np.ndarray) -> np.ndarray:
        """(3 + C,): loss, calibration error, macro F1 and each class's F1; weights: how often each
        image counts."""
        places = self.labels * num_classes + self.predicted
        matrix = np.bincount(places, weights, num_classes**2).reshape(num_classes, num_classes)
        classes, is_right = by_class(matrix), self.labels == self.predicted
        error = reliability(is_right, self.confidence, weights).error
        loss = (weights * self.losses).sum() / max(1, weights.sum())
        return np.array([loss, error, classes.macro_f1, *classes.f1])


@dataclass(frozen=True)
class Assessment:
    """What is found out about a checkpoint."""

    found: TrainedModel
    split: Split
    scores: Scores
    outcomes: Outcomes
    bad: dict[str, str]  # what is wrong with each unreadable image, by its path

    @property
    def calibration(self) -> Reliability:
        o = self.outcomes
        return reliability(o.labels == o.predicted, o.confidence)

    @cached_property
    def intervals(self) -> np.ndarray:
        """(3 + C, 2): 95 % of loss, calibration error, macro F1, and each class's F1."""
        num_classes = len(self.found.classes)
        return bootstrap(partial(self.outcomes.of, num_classes), len(self.outcomes.labels))

    def as_json(self) -> dict[str, Any]:
        """Figures, a name_95 being the interval of what is called so."""
        s, classes, calibration = self.scores, by_class(self.scores.confusion), self.calibration
        loss, error, macro_f1, *f1 = self.intervals.tolist()
        return {
            "checkpoint": str(self.found.path),
            "step": self.found.step,
            "data": str(self.split.root),
            "images": s.num_images,
            "correct": s.correct,
            "correct_top5": s.correct_top5,
            "loss": s.loss,
            "loss_95": loss,
            "accuracy": s.accuracy,
            "accuracy_95": wilson(s.correct, s.num_images),
            "accuracy_top5": s.accuracy_top5,
            "accuracy_top5_95": wilson(s.correct_top5, s.num_images),
            "macro_f1": classes.macro_f1,
            "macro_f1_95": macro_f1,
            "calibration_error": calibration.error,
            "calibration_error_95": error,
            "calibration": {name: sums.tolist() for name, sums in calibration._asdict().items()},
            "classes": {
                name: {
                    "precision": float(classes.precision[k]),
                    "precision_95": wilson(int(right), int(classes.taken[k])),
                    "recall": float(classes.recall[k]),
                    "recall_95": wilson(int(right), int(classes.support[k])),
                    "f1": float(classes.f1[k]),
                    "f1_95": f1[k],
                    "support": int(classes.support[k]),
                }
                for k, (name, right) in enumerate(zip(self.found.classes, s.confusion.diagonal()))
            },
            "confusion": s.confusion.tolist(),
            "unreadable": self.bad,
        }

    def lines(self) -> Iterator[str]:
        """For the eye."""
        s, names = self.scores, [on_one_line(name) for name in self.found.classes]
        yield on_one_line(f"{self.found.path} on {self.split.root}: {s.num_images} images")
        if not s.num_images:
            yield "none of them could be read, so there are no scores"
            return
        classes = by_class(s.confusion)
        loss, error, macro_f1, *f1 = self.intervals
        yield _figure("loss", s.loss, loss)
        yield _figure("top-1", s.accuracy, wilson(s.correct, s.num_images))
        if len(names) > TOP:
            yield _figure("top-5", s.accuracy_top5, wilson(s.correct_top5, s.num_images))
        yield _figure("macro F1", classes.macro_f1, macro_f1)
        yield _figure("calibration error", self.calibration.error, error)
        width = max(5, *map(len, names))
        yield (
            f"\n{'class':{width}}  images  precision  recall  {'95 %':14}      F1  {'95 %':14}"
        ).rstrip()
        for k, name in enumerate(names):
            support, right = int(classes.support[k]), int(s.confusion[k, k])
            yield (
                f"{name:{width}}  {support:6}  {classes.precision[k]:9.3f}"
                f"  {classes.recall[k]:6.3f}  {_between(wilson(right, support))}"
                f"  {classes.f1[k]:6.3f}  {_between(f1[k])}"
            )
        if len(names) <= MATRIX:
            yield "\nis a row, taken for a column:"
            digits = len(str(s.confusion.max()))
            for name, counts in zip(names, s.confusion):
                yield f"{name:{width}}  {' '.join(f'{count:{digits}}' for count in counts)}"


def _figure(name: str, value: float, ends: Sequence[float]) -> str:
    return f"{name:17}  {value:.4f}  (95 %: {_between(ends)})"


def _between(ends: Sequence[float]) -> str:
    return f"{ends[0]:.3f} to {ends[1]:.3f}"


def assess(
    net: mx.gluon.Block, found: TrainedModel, split: Split, world: Any, num_workers: int = THREADS
) -> Assessment:
    """net: `found.network(world)`; all ranks call it, and get the same."""
    views = found.views
    share = Config.seed, world.rank, world.size
    both = Dataset(found.classes, split, split)  # of which the test images are looked at
    feed = RankBatches(both, views, *share, num_workers, Config.prefetch_mb)
    seen = []

    def watch(batch: Batch, predicted: np.ndarray, losses: np.ndarray, p: np.ndarray) -> None:
        columns = batch.indices, batch.labels, predicted, losses, p.max(axis=1)
        seen.append(np.stack([each.astype(np.float64) for each in columns])[:, batch.mask > 0])

    try:
        scores = evaluate(net, feed.test(), len(found.classes), world, watch)
    finally:
        feed.close()
    none = np.empty((5, 0))
    mine = np.concatenate([none, *seen], axis=1), dict(feed.test_loader.unreadable)
    everyones, bad = zip(*world.gather(mine))
    columns = np.concatenate(everyones, axis=1)
    columns = columns[:, np.argsort(columns[0])]
    outcomes = Outcomes(*columns[1:3].astype(np.int64), *columns[3:])
    assert scores.num_images == len(outcomes.labels)
    all_bad = {path: reason for theirs in bad for path, reason in theirs.items()}
    assert scores.num_images + len(all_bad) == len(split)
    return Assessment(found, split, scores, outcomes, all_bad)


def _write(assessment: Assessment, args: argparse.Namespace) -> None:
    if args.json:
        with files.output_file(args.json, "--json") as beside:
            beside.write_text(as_json(assessment.as_json(), indent=1), encoding="utf-8")
    if args.png:
        with files.output_file(args.png, "--png") as beside:
            figure = figures.confusion(assessment.scores.confusion, assessment.found.classes)
            figure.savefig(str(beside), format="png", dpi=120)
    print("\n".join(assessment.lines()))
    if assessment.bad:
        sys.stdout.flush()
        told = "\n".join(map(on_one_line, assessment.bad.values()))
        print(f"{told}\ndist_ft: {len(assessment.bad)} images cannot be read", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dist_ft.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag("checkpoint", metavar="RUN", help=trained_model.HELP)
    flag("data", metavar="DATA", help="folder of labelled images")
    flag("--split", default="test", choices=("test", "train"), help="default: %(default)s")
    flag("--json", type=Path, metavar="FILE", help="write all that is found there, too")
    flag("--png", type=Path, metavar="FILE", help="draw the confusion matrix there")
    flag("--device", default=Config.device, choices=("auto", "cpu", "gpu"), help="as of train")
    cli.add_dtype(parser)
    cli.add_count(parser, "--num-workers", THREADS, "decoding threads of each process")
    args = parser.parse_args()
    with cli.standard_output(), startup.start(args.device) as world:
        with world.raise_on_all_ranks():
            files.check_output_file(args.json, "--json")
            files.check_output_file(args.png, "--png")
            found = trained_model.find(args.checkpoint)
            split = labelled(args.data, args.split, found.classes)
        net = found.network(world, args.dtype)
        assessment = assess(net, found, split, world, args.num_workers)
        if world.is_main:
            _write(assessment, args)
    # A rank that ends with 1 would have the launcher end rank 0, which may still be writing.
    sys.exit(1 if assessment.bad and world.is_main else 0)
