"""Makes faults happen in real jobs and writes what came of them: docs/faults.md.

    python -m tests.faults.measure [--only FAULT...] [--under LAUNCHER...] [--runs 20]

Takes more than an hour on two cores. What was measured is kept in --kept, so that a part can be
measured anew with --only and --under; the page is written once all is there. The exit status is 1
where a job did not end, a checkpoint was not whole or a result differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.faults import cell, commits, deaths, elastic_runs, page, saves
from tests.faults.cell import Cell
from tests.faults.jobs import LAUNCHERS, Place
from tests.faults.kinds import FAULTS
from tests.hosts.network import Network
from tests.images import make_folder

MORE = {
    "saves": saves.summary,
    "random": elastic_runs.summary,
    "deaths": deaths.summary,
    "commits": commits.summary,
}
CELLS = [(f, name) for f in FAULTS for name in LAUNCHERS if name in FAULTS[f].at]


def befall(fault: str, launcher: str, folder: Path, data: Path, alone: Path) -> Cell:
    with contextlib.ExitStack() as stack:
        network = None
        if fault == "link":
            (folder / f"net-{launcher}").mkdir()
            network = Network(folder / f"net-{launcher}", ["hosta", "hostb"])
            stack.enter_context(network)
        place = Place(folder / f"{fault}-{launcher}", fault, data, network)
        stack.callback(clear, place)
        return cell.measure(fault, launcher, place, alone)


def clear(place: Place) -> None:
    if place.kind == "disk":
        subprocess.run(["umount", "--lazy", str(place.run)], check=True)
    if place.kind == "oom":
        for group in Path("/sys/fs/cgroup/memory").glob("dist_ft-*"):
            group.rmdir()


def is_bad(found: Cell) -> bool:
    torn = "TORN" in found.saved or (found.saved == "none" and found.fault not in cell.EARLY)
    return found.status is None or torn or found.left_s is None or found.result != "the same"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[*FAULTS, *MORE], default=[*FAULTS, *MORE])
    parser.add_argument("--under", nargs="+", choices=LAUNCHERS, default=list(LAUNCHERS))
    parser.add_argument(
        "--runs", type=int, default=20, help="of each kind where chance decides (default: 20)"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/faults.md"))
    parser.add_argument("--kept", type=Path, default=Path(tempfile.gettempdir(), "faults.json"))
    given = parser.parse_args()
    kept = json.loads(given.kept.read_text()) if given.kept.exists() else {}
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_folder(folder / "data", (13, 9, 11, 10, 10), (21, 20, 20, 20, 20))
        alone = elastic_runs.alone(folder / "alone", data)
        for fault, launcher in CELLS:
            if fault in given.only and launcher in given.under:
                found = befall(fault, launcher, folder, data, alone)
                wrong += is_bad(found)
                print(*found, sep="; ", flush=True)
                kept[f"{fault} {launcher}"] = found._asdict()
                given.kept.write_text(json.dumps(kept, indent=1))
    for what in set(MORE).intersection(given.only):
        kept[what] = MORE[what](given.runs)
        given.kept.write_text(json.dumps(kept, indent=1))
    if all(f"{fault} {launcher}" in kept for fault, launcher in CELLS) and set(MORE) <= set(kept):
        given.out.write_text(page.of(kept))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
