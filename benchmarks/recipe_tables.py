"""The results of benchmarks/recipes.py as Markdown."""

from __future__ import annotations

import statistics
from typing import Any, Iterator, Mapping, Sequence

from benchmarks.recipe_runs import Comparison
from benchmarks.results import table

Results = Mapping[str, Mapping[str, Any]]  # by name of the run
HEADER = ("", "mean", "min", "max", "runs", "difference", "on validation", "s per run")


def as_markdown(results: Results, comparisons: Sequence[Comparison]) -> str:
    """A table for each comparison that has results, and one of candidates."""
    candidates = {name: result for name, result in results.items() if result["is_candidate"]}
    others = {name: result for name, result in results.items() if name not in candidates}
    parts = []
    for comparison in comparisons:
        rows = [*_rows(comparison, others)]
        if rows:
            parts.append(f"{table((comparison.title, *HEADER[1:]), rows)}")
    if candidates:
        names = sorted({result["group"] for result in candidates.values()})
        rows = [*_rows(Comparison("", "val_accuracy", names), candidates)]
        rows.sort(key=lambda row: row[1], reverse=True)
        header = ("Candidates, on validation images only", *HEADER[1:])
        parts.append(table(header, rows))
    return "\n\n".join(parts)


def _rows(comparison: Comparison, results: Results) -> Iterator[Sequence[str]]:
    """difference: of the means over the seeds that both groups have, to the first group."""
    by_group = {
        name: {r["seed"]: r for r in results.values() if r["group"] == name}
        for name in comparison.group_names
    }
    first = by_group[comparison.group_names[0]]
    for name, runs in by_group.items():
        if not runs:
            continue
        values = [run[comparison.metric] for run in runs.values()]
        is_share = max(values) <= 1
        yield (
            name,
            *(f"{v:.3f}" if is_share else f"{v:.1f}" for v in _mean_min_max(values)),
            str(len(values)),
            _difference(first, runs, comparison.metric, is_share) if runs is not first else "",
            _mean(runs, "val_accuracy"),
            _mean(runs, "elapsed_s"),
        )


def _mean_min_max(values: Sequence[float]) -> tuple[float, float, float]:
    return statistics.mean(values), min(values), max(values)


def _difference(first: Mapping, runs: Mapping, metric: str, is_share: bool) -> str:
    """In points for shares, else as a ratio."""
    seeds = first.keys() & runs.keys()
    if not seeds:
        return ""
    if is_share:
        points = statistics.mean(runs[s][metric] - first[s][metric] for s in seeds) * 100
        return f"{points:+.1f} points"
    return f"x {statistics.median(runs[s][metric] / first[s][metric] for s in seeds):.2f}"


def _mean(runs: Mapping[int, Mapping], metric: str) -> str:
    values = [run[metric] for run in runs.values() if metric in run]
    if not values:
        return ""
    return f"{statistics.mean(values):.{3 if max(values) <= 1 else 0}f}"
