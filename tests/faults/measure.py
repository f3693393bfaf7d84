"""Injects faults into real jobs and writes docs/faults.md from what happened.

    python -m tests.faults.measure [--only FAULT...] [--under LAUNCHER...] [--runs 20]

Takes more than an hour on two cores. The file --results keeps all measurements, so that a part of
them can be repeated with --only and --under; the page is written when all exist. The exit status is
1 if a job did not end, a checkpoint was incomplete or a result differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import elastic_jobs
from tests.faults import cell, commits, deaths, elastic_runs, page, saves
from tests.faults.cell import Cell
from tests.faults.jobs import LAUNCHERS, FaultyJob
from tests.faults.kinds import FAULTS
from tests.hosts.network import Network
from tests.images import make_folder

SUMMARIES = {
    "saves": saves.summary,
    "random": elastic_runs.summary,
    "deaths": deaths.summary,
    "commits": commits.summary,
}
CELLS = [(fault, name) for fault in FAULTS for name in LAUNCHERS if name in FAULTS[fault].launchers]


def inject(fault: str, launcher: str, folder: Path, data: Path, undisturbed: Path) -> Cell:
    with contextlib.ExitStack() as stack:
        network = None
        if fault == "link":
            (folder / f"net-{launcher}").mkdir()
            network = Network(folder / f"net-{launcher}", ["hosta", "hostb"])
            stack.enter_context(network)
        job = FaultyJob(folder / f"{fault}-{launcher}", fault, data, network)
        stack.callback(clean_up, job)
        return cell.measure(fault, launcher, job, undisturbed)


def clean_up(job: FaultyJob) -> None:
    if job.fault == "disk":
        subprocess.run(["umount", "--lazy", str(job.out)], check=True)
    if job.fault == "oom":
        for group in Path("/sys/fs/cgroup/memory").glob("dist_ft-*"):
            group.rmdir()


def is_bad(result: Cell) -> bool:
    is_early = result.fault in cell.BEFORE_STEP_0
    bad_checkpoint = "TORN" in result.saved or (result.saved == "none" and not is_early)
    did_not_end = result.status is None or result.left_s is None
    return did_not_end or bad_checkpoint or result.result != cell.IDENTICAL


def main() -> None:
    args = parse()
    results = json.loads(args.results.read_text()) if args.results.exists() else {}
    num_bad = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_folder(folder / "data", (13, 9, 11, 10, 10), (21, 20, 20, 20, 20))
        undisturbed = elastic_jobs.train_undisturbed(folder / "undisturbed", data)
        for fault, launcher in CELLS:
            if fault in args.only and launcher in args.under:
                result = inject(fault, launcher, folder, data, undisturbed)
                num_bad += is_bad(result)
                print(*result, sep="; ", flush=True)
                results[f"{fault} {launcher}"] = result._asdict()
                args.results.write_text(json.dumps(results, indent=1))
    for name in set(SUMMARIES).intersection(args.only):
        results[name] = SUMMARIES[name](args.runs)
        args.results.write_text(json.dumps(results, indent=1))
    required = {f"{fault} {launcher}" for fault, launcher in CELLS} | set(SUMMARIES)
    if required <= set(results):
        args.out.write_text(page.render(results, page.describe_machine()))
    sys.exit(1 if num_bad else 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [*FAULTS, *SUMMARIES]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--under", nargs="+", choices=LAUNCHERS, default=list(LAUNCHERS))
    parser.add_argument(
        "--runs", type=int, default=20, help="of each kind of random fault (default: 20)"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/faults.md"))
    parser.add_argument("--results", type=Path, default=Path(tempfile.gettempdir(), "faults.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
