"""Compares dist_ft with other ways to fine-tune, on the same images and machine.

    python -m benchmarks.compare --rounds 5 --json results.json
    python -m benchmarks.compare --only 'loader|evaluation' --rounds 1
    python -m benchmarks.compare --show results.json

Each contestant is a process of its own. A round runs each of them once, so that changes of the
machine affect all of them, and a ratio compares results of the same round. A contestant that
cannot run is left out, with the reason.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
from pathlib import Path
from typing import Any, Sequence

from benchmarks import machine, photos, processes
from benchmarks.catalog import CONTESTANTS, RATIOS, Contestant
from benchmarks.command_line import parser_for, pattern, positive
from benchmarks.results import as_markdown
from dist_ft.distributed import threads
from dist_ft.files import atomic_file

NO_BFLOAT16 = "this processor has neither AVX512-BF16 nor AMX"


def run_rounds(names: Sequence[str], data: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The results of each contestant in each round, and why others were left out."""
    rounds: dict[str, list[dict]] = {name: [] for name in names}
    left_out: dict[str, str] = {}
    if not threads.has_bfloat16():
        needing = [name for name in names if CONTESTANTS[name].needs_bfloat16()]
        left_out.update(dict.fromkeys(needing, NO_BFLOAT16))
    results: dict[str, Any] = {
        "machine": machine.describe(),
        "data": photos.describe(data),
        "batch_size": args.batch_size,
        "rounds": rounds,
        "left_out": left_out,
        "has_failed": False,
    }
    for number in range(1, args.rounds + 1):
        for name in [name for name in names if name not in left_out]:
            try:
                result = run_once(CONTESTANTS[name], data, args)
            except processes.ContestantError as error:
                left_out[name], rounds[name] = str(error), []
                results["has_failed"] |= not error.is_missing
                print(f"left out: {name}: {error}", file=sys.stderr, flush=True)
                continue
            rounds[name].append(result)
            print(
                f"round {number} of {args.rounds}, {name}: {result['images_per_s']:.1f} images/s,"
                f" {result['peak_mb']:,.0f} MB, other processes {result['others']:.0%}",
                file=sys.stderr,
                flush=True,
            )
        if args.json:  # after each round, to keep the earlier ones if it is interrupted
            with atomic_file(args.json) as temporary:
                temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def run_once(contestant: Contestant, data: Path, args: argparse.Namespace) -> dict[str, Any]:
    warmup, steps = 2, contestant.times_steps * args.steps
    if contestant.max_epochs:
        warmup, steps = 1, min(contestant.max_epochs, args.epochs or contestant.max_epochs)
    # dist_ft's --batch-size is that of all ranks.
    batch_size = args.batch_size * max(1, contestant.num_ranks)
    flags = [*contestant.flags, "--data", str(data), "--batch-size", str(batch_size)]
    flags += ["--warmup", str(warmup), "--steps", str(steps)]
    program, environ = contestant.program, dict(contestant.environ)
    python = args.torch_python if program.startswith("pytorch") else sys.executable
    with machine.OtherLoad() as others:
        result = processes.run(program, flags, contestant.num_ranks, environ, python)
    return {**result, "others": others.share}


def format_results(results: dict[str, Any]) -> str:
    left_out = "".join(f"- left out: {name}: {why}\n" for name, why in results["left_out"].items())
    return (
        f"Machine: {results['machine']}.\n"
        f"Images: {results['data']}; {results['batch_size']} per step and rank.\n\n"
        f"{as_markdown(results['rounds'], RATIOS)}\n\n{left_out}".rstrip()
    )


def parse() -> argparse.Namespace:
    parser = parser_for("compare", __doc__)
    flag = parser.add_argument
    flag("--data", type=Path, help="image folder (default: that of benchmarks.photos)")
    flag("--only", metavar="PATTERN", type=pattern, default="", help="names of contestants to run")
    flag("--rounds", type=positive, default=5, help="default: 5")
    flag("--steps", type=positive, default=14, help="timed training steps (default: 14)")
    flag("--epochs", type=positive, help="maximum for contestants that count epochs")
    flag("--batch-size", type=positive, default=32, help="images per step and rank (default: 32)")
    flag("--torch-python", metavar="PATH", default=sys.executable, help="a Python with PyTorch")
    flag("--json", type=Path, metavar="FILE", help="file to write the results to")
    flag("--show", type=Path, metavar="FILE", help="only print the tables of such a file")
    flag("--list", action="store_true", help="only print the names of the contestants")
    return parser.parse_args()


def main() -> None:
    """Exits with status 1 if a contestant failed, other than for a missing package."""
    args = parse()
    if args.show:
        print(format_results(json.loads(args.show.read_text(encoding="utf-8"))))
        return
    names = [name for name in CONTESTANTS if re.search(args.only, name)]
    if args.list or not names:
        print("\n".join(CONTESTANTS))
        sys.exit(0 if args.list else 2)
    try:
        data = args.data or photos.default_folder()
        results = run_rounds(names, data, args)
    except ValueError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    print(format_results(results))
    sys.exit(1 if results["has_failed"] else 0)


if __name__ == "__main__":
    main()
