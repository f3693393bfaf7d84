"""Names of classes and files as others can take them."""

from __future__ import annotations

import re


def printable(text: str, encoding: str = "utf-8") -> str:
    """Names of files may hold bytes that are no text, or signs that a terminal does not know."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def on_one_line(text: str) -> str:
    r"""Printable, with a tab as \t, a new line as \n, and so on."""
    return re.sub(
        r"[\0-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], printable(text)
    )
