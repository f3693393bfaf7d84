"""docs/faults.md speaks of every fault under every launcher, and none is without an end."""

from __future__ import annotations

from tests.conftest import REPO
from tests.faults.kinds import FAULTS
from tests.faults.page import HEAD, SECTIONS


def sections() -> dict[str, dict[str, list[str]]]:
    """The cells of each row, by the section's title and the fault's."""
    parts = (REPO / "docs" / "faults.md").read_text().split("\n## ")[1:]
    found = {}
    for title, *lines in (part.splitlines() for part in parts):
        rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
        _, _, *rows = rows or [[], []]  # the head, and the line below it
        found[title] = {cells[0]: cells[1:] for cells in rows}
    return found


def test_each_fault_has_a_row_under_each_launcher():
    for launcher, title in SECTIONS.items():
        rows = sections()[title]
        assert list(rows) == [fault.title for fault in FAULTS.values()]
        for fault in FAULTS.values():
            cells = rows[fault.title]
            if launcher in fault.at:
                assert len(cells) == HEAD.count("|") - 2
            else:
                assert cells[0].startswith("not possible")


def test_each_ends_says_so_and_comes_to_the_same_result():
    for launcher, title in SECTIONS.items():
        for fault in FAULTS.values():
            cells = sections()[title][fault.title]
            assert not any(word in cell for cell in cells for word in ("hangs", "lost", "TORN"))
            if launcher in fault.at:
                says, _, _, _, status, _, result = cells
                assert len(says) > 10
                assert status.isdigit()
                assert result == "the same"
