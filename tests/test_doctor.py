"""The doctor finds what would stop a run, on any rank, before the run does."""

from __future__ import annotations

import re

from tests.conftest import run_job

HEALTHY = ["--weights", "none", "--model", "mobilenet0.25"]


def test_a_machine_that_can_train_gets_no_failure_and_status_0(tiny, tmp_path):
    out = ["--data", str(tiny), "--out", str(tmp_path / "run")]
    ended = run_job(["-m", "dist_ft.doctor", *out, *HEALTHY], 60)
    assert ended.status == 0, ended.output
    assert "FAIL" not in ended.output
    assert re.search(r"ok +packages +Python 3\.\d+\.\d+, MXNet 1\.9\.1", ended.output)
    assert re.search(r"ok +images +5 classes, 53 \+ 101 images", ended.output)
    assert re.search(r"ok +loader +[\d,]+ images/s", ended.output)
    assert not (tmp_path / "run").exists()


def test_what_would_stop_a_run_fails_with_its_remedy(tmp_path):
    wrong = ["--data", str(tmp_path / "nowhere"), "--weights", "absent.params"]
    ended = run_job(["-m", "dist_ft.doctor", *wrong], 60)
    assert ended.status == 1
    assert re.search(r"FAIL +images .*\n +-> .*no such folder; name one with --data", ended.output)
    assert re.search(r"FAIL +weights .*\n +-> .*absent\.params: no such file", ended.output)
    assert "Traceback" not in ended.output


def test_a_machine_is_ready_without_images_where_none_are_named(tmp_path):
    """As the health of a container is asked for, whose data came from the command line."""
    ended = run_job(["-m", "dist_ft.doctor", *HEALTHY, "--out", str(tmp_path)], 60, cwd=tmp_path)
    assert ended.status == 0, ended.output
    assert re.search(r"note +images +food5\n +-> .*no such folder; name one with", ended.output)


def test_ranks_measure_what_lies_between_them_and_compare_their_images(tiny, tmp_path):
    words = ["-m", "dist_ft.doctor", "--data", str(tiny), "--out", str(tmp_path), *HEALTHY]
    ended = run_job(words, 60, num_ranks=2)
    assert ended.status == 0, ended.output
    assert re.search(r"ok +allreduce +85 MB over 2 ranks in \d+ ms", ended.output)
    assert "the same on 2 ranks" in ended.output


def test_a_rank_without_the_images_is_named(tiny, tmp_path):
    flags = ["--data", str(tiny), "--out", str(tmp_path), *HEALTHY]
    odd = ["tests/workers/odd_one.py", "doctor", "1", "--data", str(tmp_path / "nowhere")]
    ended = run_job([*odd, *flags], 60, num_ranks=2)
    assert ended.status != 0
    assert re.search(r"on rank 1 of 2 on \S+:\nFAIL +images", ended.output), ended.output
