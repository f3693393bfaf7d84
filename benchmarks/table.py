"""Tables as Markdown that is readable as plain text too."""

from __future__ import annotations

from typing import Sequence


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of words; the first column is to the left, the others to the right."""
    columns = list(zip(head, *rows))
    widths = [max(3, *map(len, column)) for column in columns]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(_line(words, widths) for words in (head, rule, *rows))


def _line(words: Sequence[str], widths: Sequence[int]) -> str:
    cells = [words[0].ljust(widths[0]), *(w.rjust(n) for w, n in zip(words[1:], widths[1:]))]
    return f"| {' | '.join(cells)} |"
