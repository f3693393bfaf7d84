"""Text that is safe to show: names of files and classes may contain any bytes."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any


def printable(text: str, encoding: str = "utf-8") -> str:
    """Escapes undecodable bytes, and characters that `encoding` lacks."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def canonical(name: str) -> str:
    """The name of a file or class, the same in every locale and on every system.

    A Mac writes é as e and an accent, others as one character (NFC). A process without a locale
    (LC_ALL=C) cannot decode its UTF-8 bytes, and keeps them as surrogates.
    """
    if name.isascii():
        return name
    utf8 = name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return unicodedata.normalize("NFC", utf8)


def on_one_line(text: str) -> str:
    r"""Printable text with control characters escaped: a tab as \t, a newline as \n."""
    control = r"[\0-\x1f\x7f-\x9f\u2028\u2029]"
    return re.sub(control, lambda match: repr(match[0])[1:-1], printable(text))


def as_json(value: Any, indent: int | None = None) -> str:
    r"""JSON in UTF-8. An undecodable byte of a file name becomes \udcXX, as os.fsdecode has it."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text
