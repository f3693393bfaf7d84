"""Figures as the page about a run tells them."""

from __future__ import annotations

from typing import Any

from dist_ft.evaluation.confidence_intervals import wilson


def interval(row: dict[str, Any]) -> str:
    """The 95 % interval of a test accuracy; row: of scores.jsonl."""
    low, high = wilson(row["test_correct"], row["test_images"])
    return f"{low:.3f} to {high:.3f}"


def value(setting: Any) -> str:
    """A setting's value, of a Config or of config.json."""
    if isinstance(setting, (list, tuple)):
        return ", ".join(map(str, setting)) or "none"
    if isinstance(setting, bool):
        return "yes" if setting else "no"
    return "none" if setting in (None, "") else str(setting)


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
