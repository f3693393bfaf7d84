"""Numbers of several rounds: the median of each contestant's, and ratios round by round."""

from __future__ import annotations

import statistics
from typing import Any, Mapping, NamedTuple, Sequence

from benchmarks.table import markdown

Told = Mapping[str, Any]  # what a contestant prints: images, elapsed_s, peak_mb, ...
Rounds = Mapping[str, Sequence[Told]]  # of each contestant, by its name


class Ratio(NamedTuple):
    """One contestant's number over another's, in the same round.

    What it is divided by is `times` that number, and `plus`.
    """

    name: str
    of: str
    over: str
    target: str
    metric: str = "speed"
    times: float = 1.0
    plus: float = 0.0

    def in_rounds(self, rounds: Rounds) -> list[float]:
        """One for each round that has both; empty where one is missing."""
        pairs = zip(rounds.get(self.of, ()), rounds.get(self.over, ()))
        return [
            number(of, self.metric) / (self.times * number(over, self.metric) + self.plus)
            for of, over in pairs
        ]


def number(told: Told, metric: str) -> float:
    """A metric of a contestant; its speed is in images/s."""
    return told["images"] / told["elapsed_s"] if metric == "speed" else told[metric]


def rendered(rounds: Rounds, ratios: Sequence[Ratio]) -> str:
    """Two tables: what each contestant did, and the ratios of which there are numbers.

    others: the most of the machine that other processes used while it ran.
    """
    speeds = [
        (
            f"{name} ({tolds[-1]['note']})" if tolds[-1].get("note") else name,
            *(f"{value:.1f}" for value in spread([number(told, "speed") for told in tolds])),
            f"{max(told['peak_mb'] for told in tolds):,.0f}",
            f"{max(told['others'] for told in tolds):.0%}",
            f"{tolds[-1]['growth_mb']:+.1f}" if "growth_mb" in tolds[-1] else "",
        )
        for name, tolds in rounds.items()
        if tolds
    ]
    found = [(ratio, ratio.in_rounds(rounds)) for ratio in ratios]
    compared = [
        (ratio.name, *(f"{value:.3f}" for value in spread(values)), ratio.target)
        for ratio, values in found
        if values
    ]
    head = ("contestant", "images/s", "min", "max", "peak MB", "others", "grown by MB")
    return (
        f"{markdown(head, speeds)}\n\n"
        f"{markdown(('ratio', 'median', 'min', 'max', 'target'), compared)}"
    )


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and largest."""
    return statistics.median(values), min(values), max(values)
