"""HTML of one file: elements whose text is escaped, and a style for screens, phones and paper."""

from __future__ import annotations

import base64
import html
import unicodedata
from typing import Iterable, Sequence

VOID = ("img", "meta")  # elements without an inside
UNSHOWN = ("Cc", "Cs")  # Unicode's control characters, and halves that stand for bytes of no text

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --paper: #fff; --line: #d8dee4;
  --box: #f6f8fa; --good: 9, 105, 218; --bad: 207, 34, 46; --train: #7f7f7f; --test: #d62728 }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9aa4af; --paper: #0f1318; --line: #30363d; --box: #171c23;
    --good: 56, 139, 253; --bad: 248, 81, 73 }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem 1rem 4rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { margin: 0; font-size: 1.8rem; line-height: 1.2 }
h2 { margin: 2.5rem 0 .6rem; font-size: 1.25rem }
h3 { margin: 1.4rem 0 .4rem; font-size: 1rem }
p { margin: .4rem 0; max-width: 46rem }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin-top: .8rem }
a { color: rgb(var(--good)) }
small, .soft, figcaption, caption { color: var(--soft); font-size: .875rem }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem;
  margin: 1rem 0 }
.cards div { display: flex; flex-direction: column; padding: .7rem .9rem; background: var(--box);
  border: 1px solid var(--line); border-radius: .5rem }
.cards dt { color: var(--soft); font-size: .875rem }
.cards dd { margin: 0 }
.cards dd.figure { font-size: clamp(1.25rem, 4.5vw, 1.6rem); font-weight: 600; line-height: 1.3 }
.scroll { max-height: 32rem; overflow: auto; margin: .6rem 0 }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
  overflow-wrap: normal }
caption { text-align: left; padding-bottom: .3rem }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; unicode-bidi: isolate }
thead th { position: sticky; top: 0; z-index: 1; background: var(--paper); color: var(--soft);
  font-weight: 600; vertical-align: bottom }
th:first-child, table.words td, table.words th { text-align: left }
tbody th { position: sticky; left: 0; max-width: 14rem; overflow: hidden; text-overflow: ellipsis;
  background: var(--paper); font-weight: 500 }
table.words td { white-space: normal; min-width: 6rem }
table.counts td { text-align: center; border: 1px solid var(--line) }
table.counts thead th { max-width: 9.5rem; overflow: hidden; text-overflow: ellipsis;
  text-align: center }
td.right { background: rgba(var(--good), var(--share)) }
td.wrong { background: rgba(var(--bad), var(--share)) }
td.deep { color: #fff }
td.none { color: var(--soft) }
tr.best { font-weight: 600 }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr));
  gap: 1rem }
figure { margin: 0 }
svg { display: block; width: 100%; height: auto }
.key { display: inline-block; margin-right: 1rem }
.key i, .bar i { background: var(--colour) }
.key i { display: inline-block; width: 1rem; height: .25rem; margin-right: .4rem;
  vertical-align: middle }
.bar { display: flex; max-width: 46rem; height: 1.1rem; margin: .6rem 0; border-radius: .3rem;
  overflow: hidden }
td .bar { min-width: 9rem; margin: 0 }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr));
  gap: 1rem .8rem; margin: .8rem 0; padding: 0; list-style: none }
.pictures img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain;
  background: var(--box); border-radius: .3rem }
.pictures li { font-size: .8rem; line-height: 1.35 }
.pictures b, .pictures span { display: block; unicode-bidi: isolate }
img.map { width: min(100%, 36rem); height: auto; border: 1px solid var(--line);
  image-rendering: pixelated }
pre { margin: .6rem 0; padding: .8rem 1rem; background: var(--box); border: 1px solid var(--line);
  border-radius: .5rem; white-space: pre-wrap; font-size: .875rem }
.note { padding: .6rem .9rem; border-left: .25rem solid rgb(var(--bad)); background: var(--box) }
@media print {
  @page { margin: 14mm }
  body { max-width: none; padding: 0; font-size: 10pt }
  nav { display: none }
  .scroll { max-height: none; overflow: visible }
  h2 { break-after: avoid }
  figure, tr, li, pre, .scroll, .cards div { break-inside: avoid }
  .cards { grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr)) }
  thead th, tbody th { position: static }
  .pictures { grid-template-columns: repeat(6, 1fr) }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
}
"""


class Markup(str):
    """HTML as it is; any other string is escaped where it is put in."""


def element(tag: str, *children: str, **attributes: object) -> Markup:
    """An element; an attribute's `_` is a dash, one at its end is dropped: `class_`; '' is none."""
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(str(value))}"'
        for name, value in attributes.items()
        if value != ""
    )
    if tag in VOID:
        return Markup(f"<{tag}{given}>")
    return Markup(f"<{tag}{given}>{join(*children)}</{tag}>")


def join(*children: str) -> Markup:
    return Markup("".join(c if isinstance(c, Markup) else text(c) for c in children))


def text(words: str) -> Markup:
    """Escaped; what no page may hold is shown as Python writes it: a file's name holds any byte."""
    shown = (
        char.encode("unicode_escape").decode() if unicodedata.category(char) in UNSHOWN else char
        for char in words
    )
    return Markup(html.escape("".join(shown)))


def table(head: Sequence[str], rows: Iterable[Markup], label: str, kind: str = "") -> Markup:
    """A table in a box of its own that scrolls, by keys as well.

    rows: what `row` gives; label: what a screen reader calls it.
    """
    names = element("tr", *(element("th", name, scope="col", title=name) for name in head))
    inside = element("thead", names), element("tbody", *rows)
    whole = element("table", *inside, class_=kind)
    return element("div", whole, class_="scroll", tabindex=0, role="region", aria_label=label)


def row(name: str, *cells: str, kind: str = "") -> Markup:
    """cells: words, or `td` elements where one is more than that."""
    shown = (
        c if c.startswith("<td") and isinstance(c, Markup) else element("td", c) for c in cells
    )
    return element("tr", element("th", name, scope="row", title=name), *shown, class_=kind)


def section(title: str, *children: str) -> Markup:
    """A part of the page that its table of contents names."""
    heading = element("h2", title, id=_anchor(title))
    return element("section", heading, *children)


def cards(*figures: tuple[str, str, str]) -> Markup:
    """Large figures, each (name, figure, what to say below)."""
    return element(
        "dl",
        *(
            element(
                "div",
                element("dt", name),
                element("dd", figure, class_="figure"),
                element("dd", element("small", below)),
            )
            for name, figure, below in figures
        ),
        class_="cards",
    )


def picture(data: bytes, kind: str, alt: str, **attributes: object) -> Markup:
    """An image inside the page; kind: 'jpeg' or 'png'."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return element("img", src=source, alt=alt, **attributes)


def document(title: str, header: Markup, sections: dict[str, Markup]) -> str:
    """The whole page; sections: by their titles, in order."""
    links = (element("a", name, href=f"#{_anchor(name)}") for name in sections)
    head = join(
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    parts = (section(name, inside) for name, inside in sections.items())
    top = element("header", header, element("nav", *links, aria_label="Contents"))
    body = element("body", top, element("main", *parts))
    whole = element("html", element("head", head), body, lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
