"""Results of several rounds as Markdown: the median of each contestant, and ratios by round."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

Result = Mapping[str, Any]  # what a contestant prints: images_per_s, peak_mb
Rounds = Mapping[str, Sequence[Result]]  # by contestant


@dataclass(frozen=True)
class Ratio:
    """The speed of one contestant divided by `times` the speed of another one."""

    name: str
    numerator: str
    denominator: str
    times: float = 1.0

    def by_round(self, rounds: Rounds) -> list[float]:
        """The ratio in each round that has both; empty if one of them did not run."""
        pairs = zip(rounds.get(self.numerator, ()), rounds.get(self.denominator, ()))
        return [a["images_per_s"] / (self.times * b["images_per_s"]) for a, b in pairs]


def as_markdown(rounds: Rounds, ratios: Sequence[Ratio]) -> str:
    """A table of the contestants, and one of the ratios.

    others: the largest share of the machine that other processes used while it ran.
    """
    speeds = [
        (
            name,
            *(f"{value:.1f}" for value in spread([r["images_per_s"] for r in results])),
            f"{max(result['peak_mb'] for result in results):,.0f}",
            f"{max(result['others'] for result in results):.0%}",
        )
        for name, results in rounds.items()
        if results
    ]
    compared = [
        (ratio.name, *(f"{value:.3f}" for value in spread(ratio.by_round(rounds))))
        for ratio in ratios
        if ratio.by_round(rounds)
    ]
    return (
        f"{table(('contestant', 'images/s', 'min', 'max', 'peak MB', 'others'), speeds)}\n\n"
        f"{table(('ratio', 'median', 'min', 'max'), compared)}"
    )


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, minimum and maximum."""
    return statistics.median(values), min(values), max(values)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is also readable as text; all columns but the first align right."""
    widths = [max(3, *map(len, column)) for column in zip(header, *rows)]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:])]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(line(cells) for cells in (header, rule, *rows))
