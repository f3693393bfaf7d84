"""Curves as SVG for a page: in its text colour, sharp on paper, equal for equal points."""

from __future__ import annotations

import io
import re
from typing import Any, NamedTuple, Sequence

import matplotlib
from matplotlib.figure import Figure

from dist_ft.reporting.markup import Markup

INK = "#010203"  # becomes the page's text colour
# Colours that are told apart by most eyes, on black and on white: Okabe and Ito 2008.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")


class Curve(NamedTuple):
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    dashed: bool = False


def by_epoch(rows: Sequence[dict[str, Any]], name: str, colour: str, dashed: bool = False) -> Curve:
    """rows: of scores.jsonl; name: of what is drawn of each."""
    return Curve([row["epoch"] for row in rows], [row[name] for row in rows], colour, dashed)


def curves(title: str, x_name: str, lines: Sequence[Curve], low: float | None = None) -> Markup:
    """An <svg> of 4.4 x 2.9 inches; low: where the vertical axis begins, if it is given."""
    style = {"svg.hashsalt": title, "svg.fonttype": "none", "font.size": 9}
    style.update(dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK))
    style.update({"xtick.color": INK, "ytick.color": INK, "grid.color": INK})
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.4, 2.9), layout="constrained")
        axes = figure.subplots()
        for line in lines:
            dash = "--" if line.dashed else "-"
            marker = "." if len(line.x) <= 60 else ""
            axes.plot(line.x, line.y, dash, color=line.colour, marker=marker, linewidth=1.5)
        axes.set_title(title)
        axes.set_xlabel(x_name)
        axes.set_ylim(bottom=low)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.15)
        axes.spines[["top", "right"]].set_visible(False)
        file = io.StringIO()
        unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=unsaid)
    return _inline(file.getvalue(), title)


def _inline(whole: str, title: str) -> Markup:
    """The element alone, without the names that a second one on the page would repeat."""
    drawn = whole[whole.index("<svg") :].replace(INK, "currentColor")
    drawn = re.sub(r"<!--.*?-->\s*", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'<g id="[\w.]+">', "<g>", drawn)
    drawn = re.sub(r' xmlns(:xlink)?="[^"]*"', "", drawn, count=2)
    return Markup(drawn.replace("<svg", f'<svg role="img" aria-label="{title}"', 1))
