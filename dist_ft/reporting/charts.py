"""Line charts as inline SVG, in the text color of the page around them."""

from __future__ import annotations

import io
import re
from typing import NamedTuple, Sequence

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

TEXT_COLOR = "#010203"  # replaced by the page's text color
# Distinguishable for most people, on black and on white: Okabe and Ito 2008.
COLORS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
STYLE = {
    **{"font.size": 9, "svg.fonttype": "none"},
    **{"text.color": TEXT_COLOR, "axes.edgecolor": TEXT_COLOR, "axes.labelcolor": TEXT_COLOR},
    **{"xtick.color": TEXT_COLOR, "ytick.color": TEXT_COLOR, "grid.color": TEXT_COLOR},
}
MAX_MARKERS = 60  # points of a line


class Line(NamedTuple):
    x: Sequence[float]
    y: Sequence[float]
    color: str
    dashed: bool = False


def by_epoch(title: str, lines: Sequence[Line], from_zero: bool = False) -> Markup:
    """An <svg> element. from_zero: whether the vertical axis starts at 0."""
    # The hash salt makes ids that are reproducible, and different from those of other charts.
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(4.4, 2.9), layout="constrained")
        axes = figure.add_subplot()
        for line in lines:
            style = "--" if line.dashed else "-"
            marker = "." if len(line.x) <= MAX_MARKERS else ""
            axes.plot(line.x, line.y, style, color=line.color, marker=marker, linewidth=1.5)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        if from_zero:
            axes.set_ylim(0, 1.1 * max(max(line.y) for line in lines) or 1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.15)
        axes.spines[["top", "right"]].set_visible(False)
        file = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    return _inline(file.getvalue(), title)


def _inline(document: str, title: str) -> Markup:
    svg = document[document.index("<svg") :].replace(TEXT_COLOR, "currentColor")
    svg = re.sub(r'<g id="[\w.]+">', "<g>", svg)  # the same in every chart of a page
    return Markup(svg.replace("<svg", Markup('<svg role="img" aria-label="{}"').format(title), 1))
