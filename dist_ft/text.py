"""Names of classes and files as others can take them: a file's name may hold any bytes."""

from __future__ import annotations

import json
import re
from typing import Any


def printable(text: str, encoding: str = "utf-8") -> str:
    """Names of files may hold bytes that are no text, or signs that a terminal does not know."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def on_one_line(text: str) -> str:
    r"""Printable, with a tab as \t, a new line as \n, and so on."""
    return re.sub(
        r"[\0-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], printable(text)
    )


def as_json(value: Any, indent: int | None = None) -> str:
    r"""JSON that is UTF-8: with a name's bytes that are none as \udc.., which Python's json.loads
    turns into what os.fsencode makes that name of."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text
