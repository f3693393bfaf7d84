"""docs/faults.md covers every fault under every launcher, and every job ended well."""

from __future__ import annotations

import pytest

from tests.conftest import REPO
from tests.faults.cell import IDENTICAL
from tests.faults.kinds import FAULTS
from tests.faults.page import HEAD, SECTIONS


@pytest.fixture(scope="module")
def sections() -> dict[str, dict[str, list[str]]]:
    """For each title of a section, the cells of each row by the fault's title."""
    sections = {}
    for part in (REPO / "docs" / "faults.md").read_text().split("\n## ")[1:]:
        title, *lines = part.splitlines()
        rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
        sections[title] = {cells[0]: cells[1:] for cells in rows[2:]}  # below head and rule
    return sections


@pytest.mark.parametrize("launcher", SECTIONS)
def test_every_fault_has_a_row(sections, launcher):
    rows = sections[SECTIONS[launcher]]
    assert list(rows) == [fault.title for fault in FAULTS.values()]
    for fault in FAULTS.values():
        if launcher not in fault.launchers:
            assert rows[fault.title][0].startswith("not possible")


@pytest.mark.parametrize("launcher", SECTIONS)
def test_every_job_reported_the_fault_and_had_an_identical_result(sections, launcher):
    for fault in FAULTS.values():
        if launcher in fault.launchers:
            cells = sections[SECTIONS[launcher]][fault.title]
            assert len(cells) == HEAD.count("|") - 2
            message, _, _, saved, status, _, result = cells
            assert len(message) > 10
            assert status.isdigit()
            assert "TORN" not in saved
            assert result == IDENTICAL
