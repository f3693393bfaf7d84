"""What a person sees of a run: lines, a progress bar, TensorBoard, scores.jsonl; and its gallery.

All of it is rank 0's; the other ranks hold a board that shows nothing.
"""

from __future__ import annotations

import errno
import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Sequence

import mxnet as mx
import numpy as np
from tqdm import tqdm

from dist_ft.data.dataset import Dataset
from dist_ft.data.transforms import InputSpec
from dist_ft.evaluation.evaluator import TOP, Scores
from dist_ft.evaluation.observer import Evidence
from dist_ft.text import printable
from dist_ft.tracking import histograms, projector
from dist_ft.tracking.test_figures import Gallery

FLUSHED_EVERY_S = 10  # not two minutes: somebody is watching


class NullLogger:
    """The board of a rank other than 0: takes everything, shows nothing."""

    def __getattr__(self, name: str):
        return lambda *args, **kwargs: None


class RunLogger:
    """The board of rank 0, writing below `run`.

    every: epochs between pictures, as Gallery has it.
    """

    def __init__(
        self,
        run: Path,
        config: dict[str, Any],
        folder: Dataset,
        views: InputSpec,
        step: int,
        every: int = 0,
    ):
        from tensorboardX import SummaryWriter  # 1 s to import, and rank 0's alone

        from dist_ft.tracking import hparams  # imports it, too

        run.mkdir(parents=True, exist_ok=True)
        self.run, self.folder, self._every = run, folder, every
        _write(run / "config.json", json.dumps(config, indent=1, default=str) + "\n")
        self._history = _read_history(run / "scores.jsonl", step)
        _write(run / "scores.jsonl", "".join(json.dumps(row) + "\n" for row in self._history))
        self._writer = SummaryWriter(
            str(run / "tensorboard"),
            # TensorBoard drops what a killed process has told from this step on.
            purge_step=step + 1 if step else 0,
            max_queue=0,  # no limit: at one, the run would wait for a thread that a full disk ended
            flush_secs=FLUSHED_EVERY_S,
        )
        self._writer.add_text("config", _table(config), 0)
        hparams.begin(self._writer, config)
        self._gallery = Gallery(self._writer, run, folder, views, every)
        self._bar = None
        self._named_bad: set[str] = set()

    def say(self, text: str) -> None:
        tqdm.write(printable(text, sys.stdout.encoding or "utf-8"), file=sys.stdout)
        sys.stdout.flush()

    def batch(self, pixels: np.ndarray, step: int) -> None:
        """Shows up to 32 of a batch's images, (n, H, W, 3) uint8, as the network sees them."""
        images = pixels[:32]
        grid = np.full((4 * 8, *images.shape[1:]), 255, np.uint8)
        grid[: len(images)] = images
        rows = grid.reshape(4, 8, *images.shape[1:]).transpose(0, 2, 1, 3, 4)
        height, width = 4 * images.shape[1], 8 * images.shape[2]
        grid = rows.reshape(height, width, 3)
        self._writer.add_image("batch", grid, step, dataformats="HWC")

    def graph(self, net: mx.gluon.HybridBlock, side: int) -> None:
        """Shows how a network on uint8 pixels, (n, side, side, 3), is built."""
        from tensorboardX.proto.event_pb2 import Event

        from dist_ft.tracking import graph as diagram

        graph = diagram.draw(net, (1, side, side, 3)).SerializeToString()
        self._writer.file_writer.add_event(Event(graph_def=graph))

    def start_epoch(self, epoch: int, steps: range, sums: Any, waited_s: float) -> None:
        """sums and waited_s: what `curves` counts from."""
        if sys.stderr.isatty():
            self._bar = tqdm(total=len(steps), desc=f"epoch {epoch + 1}", unit="step", leave=False)
        self._last = _reading(sums, waited_s)

    def step(self) -> None:
        if self._bar:
            self._bar.update()

    def curves(self, step: int, place: str, sums: Any, lr: float, waited_s: float) -> None:
        """A point of the training curves, of the steps since the last one, and a line about it.

        place: where the run is; '' for no line. sums: an epoch's loss_sum, correct and num_images
        so far; waited_s: seconds that rank 0 has waited for data.
        """
        now = _reading(sums, waited_s)
        loss, correct, images, waited_s, elapsed_s = now - self._last
        if not images:
            return
        self._last = now
        self._check_writer()
        speed, wait_share = images / elapsed_s, waited_s / elapsed_s
        for name, value in (
            *(("train/loss", loss / images), ("train/accuracy", correct / images)),
            *(("train/lr", lr), ("speed/images_per_s", speed)),
            ("speed/data_wait_share", wait_share),
        ):
            self._writer.add_scalar(name, value, step)
        words = f"loss {loss / images:.4f}, {speed:.1f} images/s, data wait {wait_share:.0%}"
        if self._bar:
            self._bar.set_postfix_str(words)
        elif place:
            self.say(f"{place}, {words}")

    def bad_images(self, reasons: dict[str, str]) -> None:
        """Names unreadable files, each once a run."""
        new = [words for path, words in sorted(reasons.items()) if path not in self._named_bad]
        self._named_bad.update(reasons)
        if new:
            more = f" and {len(new) - 5} more" if len(new) > 5 else ""
            self.say(f"left out {len(new)} unreadable images: {'; '.join(new[:5])}{more}")

    def end_epoch(
        self,
        epoch: int,
        step: int,
        train: dict[str, float],
        test: Scores,
        evidence: Evidence,
        elapsed_s: float,
        ranks: Sequence[Any] = (),
    ) -> None:
        """The epoch's line, its row in scores.jsonl, its points and pictures.

        ranks: the straggler.Account of each.
        """
        if self._bar:
            self._bar.close()
            self._bar = None
        row = {
            "epoch": epoch + 1,
            "step": step,
            **{f"train_{name}": value for name, value in train.items()},
            "test_loss": test.loss,
            "test_accuracy": test.accuracy,
            "test_correct": test.correct,
            "test_images": test.num_images,
            "elapsed_s": elapsed_s,
        }
        if len(self.folder.classes) > TOP:
            row["test_accuracy_top5"] = test.accuracy_top5
        row["confusion"] = test.confusion.tolist()
        if len(ranks) > 1:
            row["ranks"] = [account.as_row() for account in ranks]
        self._history.append(row)
        with open(self.run / "scores.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.say(
            f"epoch {epoch + 1}, loss {train['loss']:.4f}, train acc {train['accuracy']:.3f},"
            f" test acc {test.accuracy:.3f}, time {elapsed_s:.1f} sec"
        )
        self._check_writer()
        self._writer.add_scalar("test/loss", test.loss, step)
        self._writer.add_scalar("test/accuracy", test.accuracy, step)
        if len(self.folder.classes) > TOP:
            self._writer.add_scalar("test/accuracy_top5", test.accuracy_top5, step)
        best = max(row["test_accuracy"] for row in self._history)
        self._writer.add_scalar("best/test_accuracy", best, step)
        if len(ranks) > 1:
            self._compare([account.step_s * 1e3 for account in ranks], step)
        self._gallery.take(epoch, step, test, evidence, self._history)

    def _compare(self, step_ms: list[float], step: int) -> None:
        slowest, median = max(step_ms), float(np.median(step_ms))
        self._writer.add_scalar("ranks/slowest_step_ms", slowest, step)
        self._writer.add_scalar("ranks/median_step_ms", median, step)
        self._writer.add_scalar("ranks/spread", (slowest - min(step_ms)) / max(median, 1e-9), step)

    def histograms(
        self, net: mx.gluon.HybridBlock, trainer: mx.gluon.Trainer, epoch: int, step: int
    ) -> None:
        """Where the weights and gradients lie, if it is this epoch's turn."""
        if (epoch + 1) % max(1, self._every) == 0:
            histograms.write(self._writer, net, trainer, step)

    def end_run(self, cloud: projector.Cloud) -> None:
        """Marks the run as over, and shows test images in the space of their features."""
        from dist_ft.tracking import hparams

        self.draw()
        if cloud.points:
            projector.write(cloud, self.run / "tensorboard", self.folder)
        hparams.end(self._writer)

    def draw(self) -> None:
        """Makes the pictures of the last test, if they were not due."""
        self._gallery.draw()

    def close(self) -> None:
        """Without more pictures: ranks that have lost another do not wait long for each other."""
        if self._bar:
            self._bar.close()
        self._writer.close()

    def _check_writer(self) -> None:
        """Raises OSError where tensorboardX's thread has ended, as it does on a full disk."""
        writer = self._writer.file_writer.event_writer
        if not writer._worker.is_alive():
            writer._event_queue.cancel_join_thread()  # nobody empties it, and the exit would wait
            raise OSError(errno.ENOSPC, "TensorBoard's files cannot be written, see above")


def _reading(sums: Any, waited_s: float) -> np.ndarray:
    return np.array([sums.loss_sum, sums.correct, sums.num_images, waited_s, time.perf_counter()])


def _read_history(path: Path, step: int) -> list[dict[str, Any]]:
    """The rows of an earlier part of the run, up to the step that it goes on from."""
    if not step or not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):  # the last one is cut where the process was killed over it
            rows.append(json.loads(line))
    return [row for row in rows if row["step"] <= step]


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.writing")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _table(config: dict[str, Any]) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in config.items())
    return printable(f"| setting | value |\n| --- | --- |\n{rows}")
