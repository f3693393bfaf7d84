"""The one job of `make test`: two ranks train, are stopped, resume, and are evaluated."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import psutil

from dist_ft.training import checkpoint
from tests.conftest import BIN, ENVIRONMENT, REPO, TINY, run_job

LAUNCHER = [str(BIN / "horovodrun"), "-np", "2", "-H", "127.0.0.1:2", "--gloo"]


def ranks_of(launcher: subprocess.Popen) -> list[psutil.Process]:
    children = psutil.Process(launcher.pid).children(recursive=True)
    return [p for p in children if p.cmdline()[:3] == [sys.executable, "-m", "dist_ft.train"]]


def test_two_ranks_train_stop_resume_and_are_evaluated(tiny, tmp_path):
    run = tmp_path / "run"
    flags = ["-m", "dist_ft.train", *TINY, "--data", str(tiny), "--out", str(run)]
    with subprocess.Popen(
        [*LAUNCHER, sys.executable, *flags, "--epochs", "1000"],
        cwd=REPO,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as job:
        lines = []
        for line in job.stdout:
            lines.append(line)
            if "epoch 1, loss" in line:
                ranks_of(job)[0].send_signal(signal.SIGTERM)
        job.wait(timeout=60)
    output = "".join(lines)
    stopped = re.search(r"stopped by SIGTERM before step (\d+); saved as (\S+);", output)
    assert stopped, output
    step, path = int(stopped[1]), stopped[2]
    assert checkpoint.latest(run).step == step

    resumed = run_job([*flags, "--epochs", "1000", "--max-steps", str(step + 4)], 60, num_ranks=2)
    assert resumed.status == 0, resumed.output
    assert f"resuming from {path} at step {step} of {step + 4}" in resumed.output
    rows = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == step + 4
    assert all(row["test_images"] == 101 for row in rows)
    assert [rank["rank"] for rank in rows[-1]["ranks"]] == [0, 1]

    best = checkpoint.best(run)
    evaluated = run_job(
        ["-m", "dist_ft.evaluate", str(run), str(tiny), "--json", str(tmp_path / "scores")], 60
    )
    assert evaluated.status == 0, evaluated.output
    scores = json.loads((tmp_path / "scores").read_text())
    assert scores["images"] == 101
    assert scores["correct"] == round(best.accuracy * 101)
