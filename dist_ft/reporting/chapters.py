"""The parts of the page about a run, each as HTML."""

from __future__ import annotations

import math
import time

import numpy as np

from dist_ft.evaluation.confidence_intervals import wilson
from dist_ft.evaluation.confusion import (
    class_scores,
    most_frequent_mistake_by_class,
    most_frequent_mistakes,
)
from dist_ft.inference.model_evaluation import TestPredictions
from dist_ft.reporting import words
from dist_ft.reporting.exhibits import bar, counted, figures, key, mapped, pictures
from dist_ft.reporting.history import DEFAULTS, History
from dist_ft.reporting.markup import Markup, cards, element, join, row, table
from dist_ft.reporting.svg import COLOURS, Curve, by_epoch
from dist_ft.reporting.svg import curves as drawn
from dist_ft.settings import flag_of

MOST_COUNTED = 24  # classes whose confusion is shown in numbers; more make a picture
FEW = 8  # classes whose matrix is taken in at a glance
MOST_CONFUSED = 15
MOST_RANKS = 32
MOST_IMAGES = 24  # rows are full at 3, 6 and 8 in one
TRAIN, TEST = "#7f7f7f", "#d55e00"


def header(run: History) -> Markup:
    c, ended = run.settings, (run.folder / "scores.jsonl").stat().st_mtime
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ended))
    images = f", {run.num_train:,} images to train on" if run.num_train else ""
    line = f"{c['model']} on {c['data']}: {len(run.classes)} classes{images}; last epoch {when}"
    return join(element("h1", run.name), element("p", line, class_="soft"))


def scores(run: History) -> Markup:
    top, last = run.top, run.rows[-1]
    large = [
        ("test accuracy", f"{top['test_accuracy']:.3f}", f"95 %: {words.interval(top)}"),
        ("test loss", f"{top['test_loss']:.4f}", f"{top['test_images']:,} images"),
        ("train accuracy", f"{top['train_accuracy']:.3f}", "augmented, while it learned"),
        ("best epoch", str(top["epoch"]), f"of {last['epoch']}, step {top['step']:,}"),
        ("time", words.duration(sum(r["elapsed_s"] for r in run.rows)), "training and tests"),
    ]
    if "test_accuracy_top5" in top:
        large.insert(1, ("among the first five", f"{top['test_accuracy_top5']:.3f}", "of test"))
    told = "The interval is Wilson's: where the accuracy on many more such images is likely to be."
    if top is not last:
        told += (
            " The epoch was chosen by the same test images, which flatters it a little; the last"
            f" one has {last['test_accuracy']:.3f} ({words.interval(last)})."
        )
    return join(cards(*large), element("p", told, class_="soft"))


def curves(run: History) -> Markup:
    charts = [
        drawn(
            name,
            "epoch",
            [
                by_epoch(run.rows, f"train_{name}", TRAIN, True),
                by_epoch(run.rows, f"test_{name}", TEST),
            ],
        )
        for name in ("accuracy", "loss")
    ]
    return figures(charts, [("train (augmented images)", TRAIN), ("test", TEST)])


def confusion(run: History) -> Markup:
    counts, names = run.confusion, run.classes
    told = "Best epoch: a row's images are of its class, and were taken for the column's."
    pairs = (
        row(names[pair.label], names[pair.predicted], f"{pair.num_images:,}")
        for pair in most_frequent_mistakes(counts, MOST_CONFUSED)
    )
    head = ["is", "taken for", "images"]
    often = table(head, pairs, "The most frequent confusions", "words")
    shown = counted(counts, names) if len(counts) <= MOST_COUNTED else mapped(counts)
    told = element("p", told, class_="soft")
    return join(told, shown, often) if len(counts) > FEW else join(told, shown)


def classes(run: History) -> Markup:
    counts, names = run.confusion, run.classes
    scored, mistaken = class_scores(counts), most_frequent_mistake_by_class(counts)
    rows = []
    for label in np.argsort(scored.recall, kind="stable").tolist():
        _, predicted, times = mistaken[label]
        low, high = wilson(int(counts[label, label]), int(scored.support[label]))
        rows.append(
            row(
                names[label],
                f"{scored.support[label]:,}",
                f"{scored.recall[label]:.3f}",
                f"{low:.3f} to {high:.3f}",
                f"{scored.precision[label]:.3f}",
                f"{scored.f1[label]:.3f}",
                f"{names[predicted]} ({times:,})" if times else "none",
            )
        )
    head = ["class", "images", "recall", "95 % interval", "precision", "F1", "most taken for"]
    told = "Best epoch, the hardest class first. Recall: its images that were recognised."
    return join(element("p", told, class_="soft"), table(head, rows, "Scores of each class"))


def images(run: History, guesses: TestPredictions | str) -> Markup:
    """The worst mistakes and the least certain, or why they are missing."""
    if isinstance(guesses, str):
        return element("p", f"No images are shown: {guesses}.", class_="note")
    notes = []
    if not guesses.same_images:
        notes.append("The test images are others than the run was tested on.")
    if run.best and run.best.step != run.top["step"]:
        notes.append(
            f"The best epoch's checkpoint, of step {run.top['step']:,}, is missing or damaged: this"
            f" is what the network of step {run.best.step:,} says."
        )
    worst, uncertain = (
        guesses.predictions.worst(MOST_IMAGES),
        guesses.predictions.least_certain(MOST_IMAGES),
    )
    return join(
        *(element("p", note, class_="note") for note in notes),
        element("h3", "The worst mistakes"),
        element("p", "Where the network gave the label least.", class_="soft"),
        pictures(guesses, worst) if worst else element("p", "There are none."),
        element("h3", "The least certain"),
        element("p", "Where no class stands out, whether it is right or not.", class_="soft"),
        pictures(guesses, uncertain),
    )


def speed(run: History) -> Markup:
    speeds, share = run.images_per_s(), run.wait_share
    parts: list[Markup] = []
    if speeds:
        told = (
            f"{np.median(speeds):,.0f} training images a second over all of an epoch, its test and"
            " its checkpoint included (the median epoch)."
        )
        parts.append(element("p", told))
    if share is None:
        told = "tensorboard/ has no points, so where a step's time went is not known."
        return join(*parts, element("p", told, class_="note"), _ranks(run))
    told = (
        f"Of a training step's time, rank 0 waited {share:.1%} for decoded images; the rest is the"
        " network's, and the sums' over the ranks."
    )
    spent = (("waiting for images", share, COLOURS[0]), ("computing", 1 - share, COLOURS[1]))
    steps = [pace.step for pace in run.paces]
    fast = Curve(steps, [pace.images_per_s for pace in run.paces], COLOURS[1])
    waits = Curve(steps, [pace.wait_share for pace in run.paces], COLOURS[0])
    return join(
        *parts,
        element("p", told),
        bar(((share, colour) for _, share, colour in spent), f"{share:.1%} waiting"),
        element("p", key((name, colour) for name, _, colour in spent)),
        figures(
            [
                drawn("images a second, in training steps", "step", [fast], low=0),
                drawn("share of time that waits for images", "step", [waits], low=0),
            ]
        ),
        _ranks(run),
    )


def _ranks(run: History) -> Markup:
    """Where a step's time went, rank by rank; the slowest ones where there are very many."""
    everyone = run.spent()
    if not everyone:
        return Markup()
    names = "waiting for data", "computing and writing", "other ranks and their sums"
    slowest = sorted(everyone, key=lambda each: -each.step_s)[:MOST_RANKS]
    rows = []
    for each in sorted(slowest, key=everyone.index):
        times = each.data_s, each.rest_s, each.others_s
        shares = [time_s / max(sum(times), 1e-9) for time_s in times]
        alt = ", ".join(f"{share:.0%} {name}" for share, name in zip(shares, names))
        shown = element("td", bar(zip(shares, COLOURS), alt))
        rows.append(
            row(each.name, shown, f"{each.step_s * 1e3:,.0f} ms", *map("{:.0%}".format, shares))
        )
    told = "The rank that waits least for the others is the one that they wait for."
    if len(slowest) < len(everyone):
        told += f" The {MOST_RANKS} slowest of {len(everyone)}."
    return join(
        element("h3", "Where a step's time went on each rank"),
        element("p", told, class_="soft"),
        element("p", key(zip(names, COLOURS))),
        table(["", "all steps", "a step by itself", "data", "computing", "others"], rows, "Ranks"),
    )


def epochs(run: History) -> Markup:
    speeds = run.images_per_s() or [math.nan] * len(run.rows)
    rows = (
        row(
            str(r["epoch"]),
            f"{r['step']:,}",
            f"{r['train_loss']:.4f}",
            f"{r['train_accuracy']:.3f}",
            f"{r['test_loss']:.4f}",
            f"{r['test_accuracy']:.3f}",
            words.interval(r),
            f"{r['elapsed_s']:.1f} s",
            "-" if math.isnan(s) else f"{s:,.0f}",
            kind="best" if r is run.top else "",
        )
        for r, s in zip(run.rows, speeds)
    )
    head = ["epoch", "step", "train loss", "train acc", "test loss", "test acc", "95 % interval"]
    return table([*head, "time", "images/s"], rows, "Scores of each epoch")


def settings(run: History) -> Markup:
    changed = run.changed()
    chosen = (
        row(flag_of(name), words.value(value), words.value(DEFAULTS.get(name)))
        for name, value in changed.items()
    )
    rest = ((k, v) for k, v in run.settings.items() if k not in changed)
    others = (row(flag_of(name), words.value(value)) for name, value in rest)
    versions = {
        name.replace("version of ", ""): value
        for name, value in run.facts.items()
        if name.startswith("version") or name.endswith(" images")
    }
    made = (row(name, str(value)) for name, value in versions.items())
    return join(
        table(["setting", "value", "default"], chosen, "Settings that were chosen", "words"),
        element(
            "details",
            element("summary", "the settings left at their defaults"),
            table(["setting", "value"], others, "Settings left at their defaults", "words"),
        ),
        element("h3", "Versions and images"),
        table(["", "of the run"], made, "Versions and images", "words")
        if versions
        else element("p", "No whole checkpoint tells them.", class_="note"),
    )


def repetition(run: History) -> Markup:
    told = (
        "On as many processes as you like, with horovodrun -np N in front: but for BatchNorm, and"
        " the order of floating-point sums, their number changes nothing."
    )
    return join(element("pre", element("code", run.command())), element("p", told, class_="soft"))
