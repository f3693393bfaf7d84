"""The program in the guide runs as it is printed."""

from __future__ import annotations

import shutil
import textwrap

import pytest

from tests.conftest import REPO, run_job

pytest.importorskip("onnx")

# Instead of the default network and its 224 px.
SMALL = (
    'data="food5", epochs=1, model="mobilenet0.25", weights="none", image_size=32, batch_size=24'
)


@pytest.mark.jobs
def test_the_program_trains_evaluates_predicts_exports_and_reports(tiny, tmp_path):
    guide = (REPO / "docs" / "guide.md").read_text(encoding="utf-8")
    begin = guide.index("    from pathlib import Path\n")
    program = textwrap.dedent(guide[begin : guide.index("\n\n`make docs`", begin)])
    assert program.count('data="food5", epochs=5') == 1
    (tmp_path / "food5").symlink_to(tiny)
    shutil.copy(tiny / "test" / "class_b" / "000.jpg", tmp_path / "dish.jpg")
    (tmp_path / "program.py").write_text(program.replace('data="food5", epochs=5', SMALL))
    ended = run_job(
        ["-c", f"import os; os.chdir({str(tmp_path)!r}); exec(open('program.py').read())"], 90
    )
    assert ended.status == 0, ended.output
    for text in ("3 0.", "calibration error", "dish.jpg (('class_", "101 of 101 labels equal"):
        assert text in ended.output, text
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert (tmp_path / "food.onnx").stat().st_size > 500_000
