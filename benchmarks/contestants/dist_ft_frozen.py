"""dist_ft with a frozen backbone: whole epochs of `python -m dist_ft.train`, after those that fill
the feature cache, by the times in scores.jsonl."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.contestants import clock


def main() -> None:
    args = clock.parse(__doc__, ("frozen",))
    with tempfile.TemporaryDirectory(prefix="dist_ft-benchmark-") as folder:
        flags = ["--data", args.data, "--weights", "none", "--dtype", "float32"]
        flags += ["--resume", "never", "--out", f"{folder}/run", "--cache-dir", f"{folder}/cache"]
        flags += ["--batch-size", str(args.batch_size), "--epochs", str(args.warmup + args.steps)]
        flags += ["--backbone-lr-mult", "0", "--views", "1", *args.rest]
        command = [sys.executable, "-m", "dist_ft.train", *flags]
        subprocess.run(command, check=True, stdout=sys.stderr)
        lines = Path(folder, "run", "scores.jsonl").read_text().splitlines()
    elapsed_s = sum(json.loads(line)["elapsed_s"] for line in lines[args.warmup :])
    num_images = sum(1 for _ in Path(args.data, "train").glob("*/*")) * args.steps
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
    clock.print_result(num_images / elapsed_s, peak_mb)


if __name__ == "__main__":
    main()
