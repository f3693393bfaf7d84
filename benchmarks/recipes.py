"""Measures what the recipes of dist_ft reach: accuracy, speed, and what each part contributes.

    python -m benchmarks.recipes --data DIR --weights FILE --image-size 64 --json results.json
    python -m benchmarks.recipes --show results.json
    python -m benchmarks.recipes ... --tune a.yaml b.yaml --json tuning.json

A tenth of the training images are validation images, which select the best epoch; its network is
scored on the test images once. Runs follow each other. A finished run is in the file, and the same
command continues with the others; an interrupted one continues from its last checkpoint.

--tune runs settings of --config files, and looks at validation images only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Sequence

from benchmarks import machine, photos, processes, recipe_data, recipe_runs
from benchmarks.command_line import parser_for, pattern, positive
from benchmarks.recipe_data import Lists
from benchmarks.recipe_runs import PYTORCH, SPEED, Run
from benchmarks.recipe_tables import as_markdown
from dist_ft.config import Config
from dist_ft.errors import UserError
from dist_ft.files import atomic_file

TIMEOUT_S = 12 * 3600
TIMED_IMAGES = 2000  # to measure the speed of training steps


def run_all(runs: Sequence[Run], lists: Lists, args: argparse.Namespace) -> bool:
    """Makes the runs that the file has no result of, and adds theirs; False if one failed."""
    results = read(args)
    left = [run for run in runs if results["runs"].get(run.name, {}).get("spec") != run.spec]
    print(f"{len(runs) - len(left)} of {len(runs)} runs are finished", file=sys.stderr)
    is_complete = True
    for number, run in enumerate(left, 1):
        try:
            result = run_once(run, lists, args)
        except processes.ContestantError as error:
            is_complete &= error.is_missing
            print(f"left out: {run.name}: {error}", file=sys.stderr, flush=True)
            continue
        results["runs"][run.name] = result
        with atomic_file(args.json) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(folder_of(run, args))
        values = [f"{k} {v:.3f}" for k, v in result.items() if k.endswith(("accuracy", "recall"))]
        values += [
            f"{result['images_per_s']:.1f} images/s",
            f"other processes {result['others']:.0%}",
        ]
        print(
            f"{number} of {len(left)}, {run.name}: {', '.join(values)}",
            file=sys.stderr,
            flush=True,
        )
    return is_complete


def run_once(run: Run, lists: Lists, args: argparse.Namespace) -> dict[str, Any]:
    """Raises ContestantError."""
    folder, group = folder_of(run, args), run.group
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**run.spec["settings"], **common_settings(run, lists, args, folder)}
    config = folder / "settings.json"  # which is also YAML
    config.write_text(json.dumps(settings))
    flags, python = ["--config", str(config)], sys.executable
    if group.program == SPEED:
        batch_size = settings.get("batch_size", Config.batch_size)
        flags = ["train", "--data", str(args.data), "--batch-size", str(batch_size), *flags]
        flags += ["--steps", str(args.steps or max(1, TIMED_IMAGES // batch_size))]
    if group.program == PYTORCH:
        python = args.torch_python
    num_ranks = group.num_ranks if group.num_ranks > 1 else 0
    with machine.OtherLoad() as others:
        result = processes.run(group.program, flags, num_ranks, None, python, TIMEOUT_S)
    if "confusion" in result and group.data == recipe_data.RARE:
        label = lists.classes.index(lists.rare_class(run.seed))
        row = result["confusion"][label]
        result["rare_recall"] = row[label] / sum(row)
    names = {"group": run.group_name, "seed": run.seed, "is_candidate": bool(args.tune)}
    conditions = {"others": others.share, "machine": machine.describe()}
    return {**names, **result, **conditions, "spec": run.spec}


def common_settings(
    run: Run, lists: Lists, args: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """The settings that depend on the data and the machine."""
    if run.group.program == SPEED:
        return {"image_size": args.image_size, "model": args.model}
    named = lists.write(run.group.data, run.seed, args.work / "lists")
    if args.tune:
        del named["test_list"]
    weights = str(args.weights)
    if run.group.program == PYTORCH:
        weights = str(converted_weights(args))
    return {
        **named,
        "data": str(args.data),
        "weights": weights,
        "image_size": args.image_size,
        "model": args.model,
        "out": str(folder / "run"),
        "cache_dir": str(args.work / "cache"),
        "keep": 1,
    }


def converted_weights(args: argparse.Namespace) -> Path:
    """The weights for PyTorch, and outputs to compare; converted at the first call."""
    path = args.work / f"weights-{args.image_size}.npz"
    if not path.exists():
        flags = [str(args.weights), str(path), "--image-size", str(args.image_size)]
        processes.run("gluon_to_npz", flags)
    return path


def folder_of(run: Run, args: argparse.Namespace) -> Path:
    """The files of a run until it is finished; another one if its settings change."""
    key = json.dumps(run.spec, sort_keys=True)
    return args.work / "runs" / hashlib.sha256(key.encode()).hexdigest()[:16]


def read(args: argparse.Namespace) -> dict[str, Any]:
    """The results in the file, or none yet. Exits if they are of other data or weights."""
    inputs = {
        "data": photos.describe(args.data),
        "weights": args.weights.name,
        "model": args.model,
        "image_size": args.image_size,
    }
    if not args.json.exists():
        return {"inputs": inputs, "runs": {}}
    results = json.loads(args.json.read_text(encoding="utf-8"))
    if results["inputs"] != inputs:
        sys.exit(f"{args.json}: has results of {results['inputs']}; choose another --json FILE")
    return results


def format_results(results: dict[str, Any]) -> str:
    runs = results["runs"]
    machines = Counter(run["machine"] for run in runs.values())
    lines = [f"{name}: {count} of {len(runs)} runs." for name, count in machines.items()]
    lines.append(f"Inputs: {results['inputs']}.")
    return "\n".join([*lines, "", as_markdown(runs, recipe_runs.comparisons())])


def absolute(path: str) -> Path:
    """Programs have another working directory. The weights may be 'none'."""
    return Path(path if path == "none" else os.path.abspath(path))


def parse() -> argparse.Namespace:
    parser = parser_for("recipes", __doc__)
    flag = parser.add_argument
    flag("--data", type=absolute, help="folder of train/CLASS/* and test/CLASS/*")
    flag("--weights", type=absolute, metavar="FILE", help=".params file to start from, or none")
    flag("--image-size", type=positive, default=224, help="px (default: 224)")
    flag("--model", default="resnet34_v2", help="default: %(default)s, which PyTorch needs")
    flag(
        "--json",
        type=absolute,
        metavar="FILE",
        help="results; those that it has are kept",
    )
    flag("--work", type=absolute, metavar="DIR", help="files of the runs (default: beside --json)")
    flag("--only", metavar="PATTERN", type=pattern, default="", help="names of runs to make")
    flag("--tune", type=Path, nargs="+", metavar="YAML", help="candidates for settings")
    flag("--on", choices=recipe_data.KINDS, default=recipe_data.ALL, help="images of --tune")
    flag("--seeds", type=positive, default=0, help="of each kind of run (default: --list has them)")
    flag("--epochs", type=positive, default=0, help="instead of those of each run")
    flag("--steps", type=positive, default=0, help="end each run after so many")
    flag("--torch-python", metavar="PATH", default=sys.executable, help="a Python with PyTorch")
    flag("--show", type=Path, metavar="FILE", help="only print the tables of such a file")
    flag("--list", action="store_true", help="only print the names of the runs")
    args = parser.parse_args()
    if not (args.show or args.list):
        missing = [f"--{n}" for n in ("data", "weights", "json") if not getattr(args, n)]
        if missing:
            parser.error(f"{', '.join(missing)}: needed for runs")
        args.work = args.work or args.json.with_suffix(".files")
    return args


def main() -> None:
    """Exits with status 1 if a run failed, other than for a missing package."""
    args = parse()
    if args.show:
        print(format_results(json.loads(args.show.read_text(encoding="utf-8"))))
        return
    try:
        groups = recipe_runs.all_groups()
        if args.tune:
            groups = recipe_runs.candidate_groups(args.tune, args.on)
        runs = recipe_runs.runs_of(groups, args.epochs, args.steps, args.seeds)
        runs = [run for run in runs if re.search(args.only, run.name)]
        if args.list or not runs:
            print("\n".join(run.name for run in runs))
            sys.exit(0 if args.list else f"--only {args.only.pattern}: no such run; see --list")
        is_complete = run_all(runs, recipe_data.divide(args.data, args.work / "cache"), args)
    except (UserError, ValueError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    print(format_results(read(args)))
    sys.exit(0 if is_complete else 1)


if __name__ == "__main__":
    main()
