"""What a person sees of a run: lines, a progress bar, TensorBoard, scores.jsonl, curves.png.

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

import numpy as np
from tqdm import tqdm

from dist_ft.evaluate import TOP, Scores

FLUSHED_EVERY_S = 10  # not two minutes: somebody is watching
DRAWN_EVERY_S = 5  # pictures take a third of a second, and an epoch of a head alone less


class Hidden:
    """The board of a rank other than 0: takes everything, shows nothing."""

    def __getattr__(self, name: str):
        return lambda *args, **kwargs: None


class Board:
    """The board of rank 0, writing below `run`."""

    def __init__(self, run: Path, config: dict[str, Any], classes: Sequence[str], step: int):
        from tensorboardX import SummaryWriter  # 1 s to import, and rank 0's alone

        run.mkdir(parents=True, exist_ok=True)
        self.run, self.classes = run, classes
        _write(run / "config.json", json.dumps(config, indent=1, default=str) + "\n")
        self._history = _read_history(run / "scores.jsonl", step)
        _write(run / "scores.jsonl", "".join(json.dumps(row) + "\n" for row in self._history))
        # TensorBoard drops what a killed process has told from this step on.
        self._writer = SummaryWriter(
            str(run / "tensorboard"), purge_step=step + 1 if step else 0, flush_secs=FLUSHED_EVERY_S
        )
        self._writer.add_text("config", _table(config), 0)
        self._bar = None
        self._undrawn: tuple[int, Scores] | None = None
        self._drawn_at = -float("inf")
        self._named_bad: set[str] = set()

    def say(self, text: str) -> None:
        tqdm.write(_printable(text, sys.stdout.encoding or "utf-8"), file=sys.stdout)
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
        self, epoch: int, step: int, train: dict[str, float], test: Scores, elapsed_s: float
    ) -> None:
        """The epoch's line, its row in scores.jsonl, its points and pictures."""
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
        if len(self.classes) > TOP:
            row["test_accuracy_top5"] = test.accuracy_top5
        row["confusion"] = test.confusion.tolist()
        self._history.append(row)
        with open(self.run / "scores.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.say(
            f"epoch {epoch + 1}, loss {train['loss']:.4f}, train acc {train['accuracy']:.3f},"
            f" test acc {test.accuracy:.3f}, time {elapsed_s:.1f} sec"
        )
        self._writer.add_scalar("test/loss", test.loss, step)
        self._writer.add_scalar("test/accuracy", test.accuracy, step)
        if len(self.classes) > TOP:
            self._writer.add_scalar("test/accuracy_top5", test.accuracy_top5, step)
        self._undrawn = step, test
        if time.monotonic() - self._drawn_at > DRAWN_EVERY_S:
            self._draw()

    def close(self, config: dict[str, Any]) -> None:
        if self._bar:
            self._bar.close()
        if self._undrawn:
            self._draw()
        if self._history:
            last = self._history[-1]
            flat = {k: v for k, v in config.items() if isinstance(v, (int, float, bool))}
            flat.update((k, _printable(v)) for k, v in config.items() if isinstance(v, str))
            self._writer.add_hparams(
                flat, {"final/test_accuracy": last["test_accuracy"]}, name="final"
            )
        self._writer.close()

    def _check_writer(self) -> None:
        """Raises OSError where tensorboardX's thread has ended, as it does on a full disk: once its
        queue of ten events is full, the next would wait for ever."""
        if not self._writer.file_writer.event_writer._worker.is_alive():
            raise OSError(errno.ENOSPC, "TensorBoard's files cannot be written, see above")

    def _draw(self) -> None:
        from dist_ft import plots

        step, test = self._undrawn
        self._undrawn, self._drawn_at = None, time.monotonic()
        figure = plots.confusion(test.confusion, self.classes)
        self._writer.add_figure("confusion", figure, step)
        plots.curves(self._history).savefig(self.run / "curves.png", dpi=110)


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
    return _printable(f"| setting | value |\n| --- | --- |\n{rows}")


def _printable(text: str, encoding: str = "utf-8") -> str:
    """Names of files may hold bytes that are no text, or signs that a terminal does not know."""
    return text.encode(encoding, "backslashreplace").decode(encoding)
