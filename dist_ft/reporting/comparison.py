"""Several runs side by side on a page: scores, curves, and the settings that differ."""

from __future__ import annotations

from typing import Sequence

from dist_ft.reporting import words
from dist_ft.reporting.exhibits import figures
from dist_ft.reporting.history import History
from dist_ft.reporting.markup import Markup, element, join, row, table
from dist_ft.reporting.svg import COLOURS, by_epoch
from dist_ft.reporting.svg import curves as drawn
from dist_ft.settings import flag_of


def side_by_side(runs: Sequence[History]) -> Markup:
    """Scores, curves and settings of several runs."""
    head = ["", "test accuracy", "95 % interval", "test loss", "best epoch", "epochs", "time"]
    rows = (
        row(
            name,
            f"{run.top['test_accuracy']:.3f}",
            words.interval(run.top),
            f"{run.top['test_loss']:.4f}",
            str(run.top["epoch"]),
            str(run.rows[-1]["epoch"]),
            words.duration(sum(r["elapsed_s"] for r in run.rows)),
        )
        for name, run in zip(_names(runs), runs)
    )
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(runs))]
    charts = [
        drawn(
            f"test {name}",
            "epoch",
            [by_epoch(run.rows, f"test_{name}", c) for run, c in zip(runs, colours)],
        )
        for name in ("accuracy", "loss")
    ]
    names = sorted({name for run in runs for name in run.settings})
    values = {name: [words.value(run.settings.get(name)) for run in runs] for name in names}
    unlike = {name: shown for name, shown in values.items() if len(set(shown)) > 1}
    differing = (row(flag_of(name), *shown) for name, shown in unlike.items())
    parts = [
        table(head, rows, "Scores of the runs"),
        figures(charts, zip(_names(runs), colours)),
        table(["setting", *_names(runs)], differing, "Settings that differ", "words"),
        element("p", f"All that follows is about {_names(runs)[0]}.", class_="soft"),
    ]
    if len({run.facts.get("test images", run.folder) for run in runs}) > 1:
        parts.insert(0, element("p", "Not all were tested on the same images.", class_="note"))
    return join(*parts)


def _names(runs: Sequence[History]) -> list[str]:
    """What to call each: its folder's name, or all of its path where two have one name."""
    short = [run.name for run in runs]
    return short if len(set(short)) == len(short) else [str(run.folder) for run in runs]
