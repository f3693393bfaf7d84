"""Scores of a checkpoint on a folder of labelled images: `python -m dist_ft.evaluate RUN DATA`.

DATA has a folder a class, or such folders in DATA/test (or DATA/val), or is RecordIO archives. Its
classes are the checkpoint's by their names; it need not have all of them. Under horovodrun the
counts are the same, only sooner. The exit status is 1 where an image cannot be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Sequence

from dist_ft import host

THREADS = host.take_cores()  # before MXNet is loaded, which reads them

import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402

from dist_ft import plots, runtime, trained, verdict, whole  # noqa: E402
from dist_ft.config import Config  # noqa: E402
from dist_ft.data import folder, records  # noqa: E402
from dist_ft.data.feed import Feed  # noqa: E402
from dist_ft.data.loader import Batch  # noqa: E402
from dist_ft.data.split import Folder, FolderError, Split  # noqa: E402
from dist_ft.evaluate import Scores, evaluate  # noqa: E402
from dist_ft.trained import Trained  # noqa: E402
from dist_ft.verdict import Calibration  # noqa: E402

MATRIX = 20  # classes, up to which the confusion matrix is printed


def labelled(data: str, name: str, classes: Sequence[str]) -> Split:
    """The images of a data set's split, or of DATA/CLASS/*, labelled as the checkpoint has it.

    name: 'test' or 'train'; classes: the checkpoint's. Raises FolderError where there are none, and
    for a class that the checkpoint does not know.
    """
    root = Path(data)
    if records.are_in(root):
        found = folder.scan(data)
        names, split = found.classes, getattr(found, name)
    else:
        kinds = ("test", "val") if name == "test" else ("train",)
        root = next((root / kind for kind in kinds if (root / kind).is_dir()), root)
        if not root.is_dir():
            raise FolderError(f"{root}: no such folder")
        names = folder.classes_in(root)
        split = folder.split_in(root, names)
    if not split.paths:
        raise FolderError(f"{root}: no class directory with images in it")
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise FolderError(
            f"{root}: has the classes {', '.join(unknown)}, which the checkpoint does not know; it"
            f" knows {', '.join(classes)}"
        )
    places = [classes.index(own) for own in names]
    return replace(split, labels=tuple(places[label] for label in split.labels))


class Assessment(NamedTuple):
    """What is found out about a checkpoint; `bad` names the unreadable images."""

    found: Trained
    split: Split
    scores: Scores
    calibration: Calibration
    bad: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        s, c, classes = self.scores, self.calibration, verdict.by_class(self.scores.confusion)
        return {
            "checkpoint": str(self.found.path),
            "step": self.found.step,
            "data": str(self.split.root),
            "images": s.num_images,
            "correct": s.correct,
            "correct_top5": s.correct_top5,
            "loss": s.loss,
            "accuracy": s.accuracy,
            "accuracy_95": verdict.interval(s.correct, s.num_images),
            "accuracy_top5": s.accuracy_top5,
            "accuracy_top5_95": verdict.interval(s.correct_top5, s.num_images),
            "calibration_error": c.error,
            "calibration": {name: sums.tolist() for name, sums in vars(c).items()},
            "classes": {
                name: {part: float(values[k]) for part, values in classes._asdict().items()}
                for k, name in enumerate(self.found.classes)
            },
            "confusion": s.confusion.tolist(),
            "unreadable": self.bad,
        }

    def lines(self) -> Iterator[str]:
        """For the eye."""
        s, names = self.scores, self.found.classes
        yield f"{self.found.path} on {self.split.root}: {s.num_images} images"
        yield f"loss      {s.loss:.4f}"
        for what, correct in (("top-1", s.correct), ("top-5", s.correct_top5)):
            low, high = verdict.interval(correct, s.num_images)
            accuracy = correct / max(1, s.num_images)
            yield f"{what}     {accuracy:.4f}  (95 % from {low:.3f} to {high:.3f})"
        yield f"calibration error {self.calibration.error:.4f}  ({verdict.NUM_BINS} bins)"
        width = max(5, *map(len, names))
        yield f"\n{'class':{width}}  precision  recall      f1  images  recall's 95 %"
        by_class = zip(*verdict.by_class(s.confusion))
        for name, right, scores in zip(names, s.confusion.diagonal(), by_class):
            precision, recall, f1, support = scores
            low, high = verdict.interval(right, support)
            yield (
                f"{name:{width}}  {precision:9.3f}  {recall:6.3f}  {f1:6.3f}  {support:6}"
                f"  {low:.3f} to {high:.3f}"
            )
        if len(names) <= MATRIX:
            yield "\nis a row, taken for a column:"
            digits = len(str(s.confusion.max()))
            for name, counts in zip(names, s.confusion):
                yield f"{name:{width}}  {' '.join(f'{count:{digits}}' for count in counts)}"


def assess(
    net: mx.gluon.Block, found: Trained, split: Split, world: Any, num_workers: int = THREADS
) -> Assessment:
    """net: `found.network(world)`; all ranks call it, and get the same."""
    views = found.views
    share = Config.seed, world.rank, world.size
    both = Folder(found.classes, split, split)  # of which the test images are looked at
    feed = Feed(both, views, *share, num_workers, Config.prefetch_mb)
    calibration = Calibration()

    def watch(batch: Batch, taken_for: np.ndarray, p: np.ndarray) -> None:
        real = batch.mask > 0
        calibration.add((taken_for == batch.labels)[real], p.max(axis=1)[real])

    try:
        scores = evaluate(net, feed.test(), len(found.classes), world, watch)
    finally:
        feed.close()
    bad: dict[str, str] = {}
    for theirs in world.gather(dict(feed.test_loader.bad)):
        bad.update(theirs)
    assert scores.num_images + len(bad) == len(split)
    return Assessment(found, split, scores, calibration.over_ranks(world), bad)


def _write(assessment: Assessment, args: argparse.Namespace) -> None:
    if args.json:
        with whole.file(args.json, "--json") as beside:
            text = json.dumps(assessment.as_json(), indent=1, ensure_ascii=False)
            beside.write_text(text, encoding="utf-8", errors="surrogateescape")
    if args.png:
        with whole.file(args.png, "--png") as beside:
            figure = plots.confusion(assessment.scores.confusion, assessment.found.classes)
            figure.savefig(str(beside), format="png", dpi=120)
    print("\n".join(assessment.lines()))
    if assessment.bad:
        sys.stdout.flush()
        told = "\n".join(assessment.bad.values())
        print(f"{told}\ndist_ft: {len(assessment.bad)} images cannot be read", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dist_ft.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag("checkpoint", metavar="RUN", help=trained.HELP)
    flag("data", metavar="DATA", help="folder of labelled images")
    flag("--split", default="test", choices=("test", "train"), help="default: %(default)s")
    flag("--json", type=Path, metavar="FILE", help="write all that is found there, too")
    flag("--png", type=Path, metavar="FILE", help="draw the confusion matrix there")
    flag("--device", default=Config.device, choices=("auto", "cpu", "gpu"), help="as of train")
    flag("--dtype", default="", help="as of train (default: that of the training run)")
    flag("--num-workers", type=int, default=THREADS, help="decoding threads of each process")
    args = parser.parse_args()
    with runtime.start(args.device) as world:
        with world.together():
            found = trained.find(args.checkpoint)
            split = labelled(args.data, args.split, found.classes)
        net = found.network(world, args.dtype)
        assessment = assess(net, found, split, world, args.num_workers)
        if world.is_chief:
            _write(assessment, args)
    # A rank that ends with 1 would have the launcher end rank 0, which may still be writing.
    sys.exit(1 if assessment.bad and world.is_chief else 0)


if __name__ == "__main__":
    main()
