"""A line of the doctor's: a verdict, what was looked at, what was found, and the remedy."""

from __future__ import annotations

from typing import NamedTuple

OK, NOTE, FAIL = "ok", "note", "FAIL"


class Finding(NamedTuple):
    verdict: str
    name: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f"\n{'':17}-> {self.remedy}" if self.remedy else ""
        return f"{self.verdict:4}  {self.name:10} {self.found}{remedy}"
