"""The ranks of one job check what they share: `world.py OUT [DATA BROKEN_DATA]`.

Runs all of world_checks.py, and with DATA the training runs of runs.py, below the folder OUT.
Rank 0 writes the results to OUT/results.json: {"checks": [passed, ...], "errors": {run: message}}.
"""

import json
import sys
from pathlib import Path

from dist_ft.distributed import threads

threads.set_num_threads()

from dist_ft import cli  # noqa: E402
from dist_ft.distributed import startup  # noqa: E402
from tests.workers import runs, world_checks  # noqa: E402

out, data = Path(sys.argv[1]), sys.argv[2:]
results: dict = {"checks": [], "errors": {}}
cli.configure_logging()

with startup.start(device="cpu", stall_timeout_s=60) as world:
    for name, check in vars(world_checks).items():
        if name.startswith("check_"):
            check(world)
            results["checks"].append(name)
            if world.is_main:
                (out / "results.json").write_text(json.dumps(results))
    if data:
        runs.train_all(world, *data, out)
        results["errors"] = runs.provoke_errors(world, data[0], out)
        if world.is_main:
            (out / "results.json").write_text(json.dumps(results))
