"""A page about a run: `python -m dist_ft.report RUN`, or several side by side with --compare.

One HTML file that needs no network: scores with intervals, curves, the confusion matrix, the worst
mistakes and the least certain images, each class, speed, settings, versions, and the command that
repeats the run. The images are shown where --data, or the folder of the run's own, has them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dist_ft.distributed import launcher

NUM_THREADS = launcher.set_threads()  # before MXNet is loaded, which reads them

from dist_ft import files  # noqa: E402
from dist_ft.distributed import startup  # noqa: E402
from dist_ft.errors import UserError  # noqa: E402
from dist_ft.inference import model_evaluation, trained_model  # noqa: E402
from dist_ft.inference.model_evaluation import TestPredictions  # noqa: E402
from dist_ft.reporting import (  # noqa: E402
    chapters,
    comparison,
    history,
)
from dist_ft.reporting.history import History  # noqa: E402
from dist_ft.reporting.markup import Markup, document  # noqa: E402


def report(run: History, others: list[History], guesses: TestPredictions | str) -> str:
    """The page's HTML; guesses: of the run's best checkpoint, or why there are none."""
    parts: dict[str, Markup] = {}
    if others:
        parts["Side by side"] = comparison.side_by_side([run, *others])
    parts["Scores"] = chapters.scores(run)
    parts["Curves"] = chapters.curves(run)
    parts["Confusion"] = chapters.confusion(run)
    parts["Classes"] = chapters.classes(run)
    parts["Images"] = chapters.images(run, guesses)
    parts["Speed"] = chapters.speed(run)
    parts["Epochs"] = chapters.epochs(run)
    parts["Settings"] = chapters.settings(run)
    parts["Repeat it"] = chapters.repetition(run)
    names = " and ".join(each.name for each in (run, *others))
    return document(names, chapters.header(run), parts)


def guesses_of(run: History, data: str) -> TestPredictions | str:
    """What the best checkpoint says of the test images below `data`; or why nothing."""
    if run.best is None:
        return f"{run.folder / 'checkpoints'} has no whole checkpoint"
    with startup.start() as world:
        try:
            model = trained_model.load(run.best.path)
            return model_evaluation.predict_test_images(model, data, world, NUM_THREADS)
        except UserError as error:
            return str(error)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dist_ft.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag("run", type=Path, metavar="RUN", help="folder of a run: what was its --out")
    flag(
        "--compare", type=Path, nargs="+", default=[], metavar="RUN", help="others to stand beside"
    )
    flag("--out", type=Path, metavar="FILE", help="the page (default: RUN/report.html)")
    flag("--data", metavar="DIR", help="the run's images, where they have moved")
    flag("--images", choices=("yes", "no"), default="yes", help="whether to show mistakes")
    args = parser.parse_args()
    out = args.out or args.run / "report.html"
    try:
        run, *others = map(history.read, (args.run, *args.compare))
        guesses = "--images no left them out"
        if args.images == "yes":
            guesses = guesses_of(run, args.data or run.settings["data"])
        with files.output_file(out, "--out") as beside:
            beside.write_text(report(run, others, guesses), encoding="utf-8")
    except UserError as error:
        parser.exit(1, f"dist_ft: {error}\n")
    print(f"{out}: {out.stat().st_size / 1e3:,.0f} kB")
