"""One result of a check, as a line of a report."""

from __future__ import annotations

from typing import NamedTuple

from dist_ft.text import on_one_line

OK, NOTE, FAIL = "ok", "note", "FAIL"

INDENT = " " * 17  # of the lines below a finding's first


class Finding(NamedTuple):
    """severity: OK, NOTE (training works, but could be better) or FAIL (it does not work)."""

    severity: str
    name: str  # what was checked
    detail: str  # what was found
    remedy: str = ""
    examples: tuple[str, ...] = ()

    def as_text(self, num_examples: int = 0) -> str:
        """The finding, its first examples, and the remedy, on a line each."""
        lines = [f"{self.severity:4}  {self.name:10} {self.detail}"]
        lines += [f"{INDENT}{on_one_line(example)}" for example in self.examples[:num_examples]]
        if len(self.examples) > num_examples:
            lines.append(f"{INDENT}and {len(self.examples) - num_examples} more")
        if self.remedy:
            lines.append(f"{INDENT}-> " + self.remedy.replace("\n", f"\n{INDENT}   "))
        return "\n".join(lines)
