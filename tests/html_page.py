"""An HTML page as a browser parses it."""

from __future__ import annotations

from html.parser import HTMLParser

VOID_TAGS = ("img", "meta")  # elements without content


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text of its table cells."""

    def __init__(self, source: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.cells: list[str] = []
        self.unclosed: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self.unclosed.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.unclosed.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.unclosed and self.unclosed[-1] in ("td", "th"):
            self.cells[-1] += data

    def attributes_of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]
