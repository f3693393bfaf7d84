"""Labels for images: `python -m dist_ft.predict RUN PATH...`, also under horovodrun, sooner.

A PATH is an image, a folder of images, a pattern as 'photos/**/*.jpg', or '-' for a list on the
standard input, a line each. A row is printed for each image, in this order; one that cannot be read
has its error there, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import deque
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Iterator, Sequence, TextIO

from dist_ft.distributed import threads

THREADS = threads.bind_cores()  # before MXNet is loaded, which reads them

import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402
import simplejpeg  # noqa: E402

from dist_ft import cli, files  # noqa: E402
from dist_ft.config import Config  # noqa: E402
from dist_ft.data import sampler  # noqa: E402
from dist_ft.data.dataset import Split  # noqa: E402
from dist_ft.data.loader import Batch, Loader  # noqa: E402
from dist_ft.data.rank_batches import TEST_BATCH_SIZE  # noqa: E402
from dist_ft.distributed import startup  # noqa: E402
from dist_ft.distributed.world import World  # noqa: E402
from dist_ft.errors import UserError  # noqa: E402
from dist_ft.evaluation.evaluator import DelayedReader  # noqa: E402
from dist_ft.inference import trained_model, writers  # noqa: E402
from dist_ft.inference.inputs import Pictures, listed  # noqa: E402
from dist_ft.inference.writers import Row  # noqa: E402

HELP = "folder of a run, whose best checkpoint is used, or of a checkpoint"
FORMATS = ("table", "csv", "jsonl", "parquet")
LONGEST = 100  # bytes of an image's name, in its thumbnail's


def predict(
    net: mx.gluon.Block,
    found: trained_model.TrainedModel,
    paths: Sequence[str],
    world: Any,
    top: int = 1,
    num_workers: int = THREADS,
    thumbnails: Path | None = None,
) -> Iterator[list[Row]]:
    """The rows of all images, in their order, part by part; the same on every rank.

    net: `found.network(world)`; top: how many labels of each; thumbnails: a folder for the images
    as the network sees them.
    """
    pictures = Pictures(paths, found.spec)
    split = Split(Path(), tuple(paths), (0,) * len(paths), ())
    loader = Loader(split, found.spec.side, num_workers, Config.prefetch_mb)
    shares = sampler.sequential_shares(len(paths), TEST_BATCH_SIZE, world.rank, world.size)
    behind = DelayedReader()

    def rows_of(finished) -> Iterator[list[Row]]:
        for logits, batch in finished:
            world.heartbeat("prediction")
            mine = _rows(logits, batch.indices, pictures, found.classes, top)
            if thumbnails:
                _write_thumbnails(mine, batch, thumbnails)
            raise_on_all_ranks = [pair for theirs in world.gather(mine) for pair in theirs]
            yield [row for _, row in sorted(raise_on_all_ranks)]

    try:
        for batch in loader.batches(shares, pictures.fill):
            logits = net(batch.on(world.ctx)[0]).astype("float32")
            yield from rows_of(behind.push(logits, batch))
        yield from rows_of(behind.rest())
    finally:
        loader.close()


def _rows(
    logits: np.ndarray, indices: np.ndarray, pictures: Pictures, classes: Sequence[str], top: int
) -> list[tuple[int, Row]]:
    """A batch's rows with the images' places; padding has none."""
    found = []
    for index, row, own in zip(indices.tolist(), probabilities(logits), logits):
        if index in pictures.errors:
            found.append((index, Row(pictures.paths[index], (), pictures.errors[index])))
        elif index >= 0:
            likeliest = np.argsort(-own, kind="stable")[:top].tolist()
            pairs = tuple((classes[c], float(row[c])) for c in likeliest)
            found.append((index, Row(pictures.paths[index], pairs)))
    return found


def probabilities(logits: np.ndarray) -> np.ndarray:
    """(n, C) float64: the softmax of each row."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _write_thumbnails(mine: list[tuple[int, Row]], batch: Batch, folder: Path) -> None:
    """FOLDER/LABEL/PROBABILITY-PLACE-NAME.jpg: within a label the least sure come first."""
    for (index, row), pixels in zip(mine, batch.x):  # padding comes last
        if row.error:
            continue
        label, probability = row.top[0]
        place = folder / (label.replace("/", "_") if label.strip(".") else f"_{label}")
        own = os.fsencode(Path(row.path).stem)[:LONGEST].decode("utf-8", "ignore")
        name = f"{probability:.3f}-{index:06}-{own}.jpg"
        with files.output_file(place / name, "--out") as beside:
            beside.write_bytes(simplejpeg.encode_jpeg(pixels, quality=90))


@contextmanager
def _writer(kind: str, output: str, top: int, paths: Sequence[str], classes: Sequence[str]):
    """What writes the rows, to a file or to the standard output."""
    with ExitStack() as stack:
        place = output and stack.enter_context(files.output_file(Path(output), "--output"))
        if kind == "parquet":
            writer = writers.Parquet(str(place), top)
            stack.callback(writer.close)
            yield writer
            return
        file: TextIO = sys.stdout
        if place:
            words = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
            file = stack.enter_context(open(place, "w", **words))
        else:
            if kind != "table":  # for a program, which wants the bytes of a name, whatever they are
                sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        if kind == "csv":
            yield writers.Csv(file, top)
        elif kind == "jsonl":
            yield writers.JsonLines(file)
        else:
            yield writers.Table(file, paths, classes)


def run(args: argparse.Namespace, world: World) -> int:
    """Labels what the command line names; rank 0 returns how many images could not be read."""
    with world.raise_on_all_ranks():
        found = trained_model.load(Path(args.checkpoint))
        sys.stdin.reconfigure(errors="surrogateescape")
        paths = listed(args.paths, sys.stdin) if world.is_main else None
        _check(args, found, paths)
    paths = world.gather(paths)[0]  # only rank 0 has a standard input
    net = found.network(world, args.dtype, fused=True)
    parts = predict(net, found, paths, world, args.top, args.num_workers, args.out)
    if not world.is_main:  # its part is in rank 0's rows, and its end must not end rank 0
        deque(parts, maxlen=0)
        return 0
    num_unreadable = 0
    with _writer(args.format, args.output, args.top, paths, found.classes) as writer:
        for part in parts:
            writer.write(part)
            num_unreadable += sum(bool(row.error) for row in part)
    if num_unreadable:
        sys.stdout.flush()
        print(f"dist_ft: {num_unreadable} of {len(paths)} images cannot be read", file=sys.stderr)
    return num_unreadable


def _check(
    args: argparse.Namespace, found: trained_model.TrainedModel, paths: list[str] | None
) -> None:
    """Raises UserError for what cannot be done, before anything is."""
    if args.top > len(found.classes):
        raise UserError(f"--top {args.top}: {found.path} knows {len(found.classes)} classes")
    if args.format == "parquet" and not args.output:
        raise UserError("--format parquet: name a file for it with --output FILE")
    writers.check(args.format)
    if args.out and args.out.exists() and not (args.out.is_dir() and not any(args.out.iterdir())):
        raise UserError(f"--out {args.out}: is no empty folder: choose another")
    files.check_output_file(Path(args.output) if args.output else None, "--output")
    if paths is not None and not paths:
        raise UserError(f"{' '.join(args.paths)}: no image is named there")


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dist_ft.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="A label does not depend on the number of processes. Under horovodrun, which marks\n"
        "each line with its rank, --output FILE gives a file without marks.",
    )
    flag = parser.add_argument
    flag("checkpoint", metavar="RUN", help=HELP)
    flag("paths", metavar="PATH", nargs="+", help="image, folder, pattern, or '-'")
    cli.add_count(parser, "--top", 1, "labels an image")
    flag("--format", choices=FORMATS, help="default: as FILE ends; a table on a terminal; csv")
    flag("--output", default="", metavar="FILE", help="write the rows there, whole or not at all")
    flag("--out", type=Path, metavar="DIR", help="write a thumbnail of each image to DIR/LABEL")
    flag("--device", default=Config.device, choices=("auto", "cpu", "gpu"), help="as of train")
    cli.add_dtype(parser)
    cli.add_count(parser, "--num-workers", THREADS, "decoding threads of each process")
    args = parser.parse_args()
    ending = Path(args.output).suffix[1:].lower()
    by_name = ending if ending in FORMATS else "csv"
    args.format = args.format or ("table" if not args.output and sys.stdout.isatty() else by_name)
    return args


def main() -> None:
    args = _parsed()
    with cli.standard_output(), startup.start(args.device) as world:
        num_unreadable = run(args, world)
    sys.exit(1 if num_unreadable else 0)
