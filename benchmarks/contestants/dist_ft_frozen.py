"""`python -m dist_ft.train` with frozen features, timed by its own scores.jsonl: epochs after the
first, which is the one that computes the features."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.contestants import clock

FROZEN = ("--backbone-lr-mult", "0", "--views", "1")


def main():
    args = clock.start(__doc__, ("train",))
    with tempfile.TemporaryDirectory(prefix="dist_ft-benchmark-") as out:
        flags = ["--data", args.data, "--weights", "none", "--dtype", "float32"]
        flags += ["--resume", "never", "--out", out, "--cache-dir", f"{out}/cache"]
        flags += ["--batch-size", str(args.batch_size), "--epochs", str(args.warmup + args.steps)]
        command = [sys.executable, "-m", "dist_ft.train", *flags, *FROZEN, *args.rest]
        subprocess.run(command, check=True, stdout=sys.stderr)
        scores = (Path(out) / "scores.jsonl").read_text()
    timed = [json.loads(line) for line in scores.splitlines()][args.warmup :]
    num_images = len(timed) * sum(1 for _ in Path(args.data, "train").glob("*/*"))
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
    clock.tell(num_images, sum(row["elapsed_s"] for row in timed), peak_mb=peak_mb)


if __name__ == "__main__":
    main()
