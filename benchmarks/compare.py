"""Runs the ways that people fine-tune today beside dist_ft, on the same images, in turn.

    python -m benchmarks.compare --rounds 5 --json results.json
    python -m benchmarks.compare --only 'loader|tests' --rounds 1
    python -m benchmarks.compare --show results.json

Each contestant is a process of its own; a round runs each once, so that what befalls the machine
befalls all of them, and a ratio is of two numbers of the same round. What cannot be run is left out
with its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, Sequence

from benchmarks import machine, photos
from benchmarks.child import Left, launched
from benchmarks.rounds import number, rendered
from benchmarks.rows import CONTESTANTS, RATIOS, Contestant


def words_of(contestant: Contestant, data: Path, args: argparse.Namespace) -> list[str]:
    """A contestant's command line."""
    warmup, steps = 2, args.steps
    if contestant.epochs:
        warmup, steps = 1, min(contestant.epochs, args.epochs or contestant.epochs)
    batch_size = args.batch_size * max(1, contestant.num_ranks)  # a rank takes as many for two
    flags = ["--data", str(data), "--batch-size", str(batch_size)]
    return [*contestant.flags, *flags, "--warmup", str(warmup), "--steps", str(steps)]


def run_rounds(names: Sequence[str], data: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What each contestant told in each round, and why the others were left out."""
    rounds: dict[str, list] = {name: [] for name in names}
    left: dict[str, str] = {}
    failed = False
    for turn in range(args.rounds):
        for name in [name for name in names if name not in left]:
            contestant = CONTESTANTS[name]
            is_torch = contestant.program.startswith("pytorch")
            try:
                with machine.Neighbours() as others:
                    told = launched(
                        contestant.program,
                        words_of(contestant, data, args),
                        contestant.num_ranks,
                        dict(contestant.environ),
                        args.torch_python if is_torch else sys.executable,
                    )[-1]
            except Left as reason:
                left[name], rounds[name] = str(reason), []
                failed = failed or not reason.is_missing
                print(f"left out: {name}: {reason}", file=sys.stderr, flush=True)
                continue
            rounds[name].append({**told, "others": others.share})
            speed, peak = number(told, "speed"), told["peak_mb"]
            place = f"round {turn + 1} of {args.rounds}, {name}"
            words = f"{speed:.1f} images/s, {peak:,.0f} MB, others' work {others.share:.0%}"
            print(f"{place}: {words}", file=sys.stderr, flush=True)
        results = {
            "machine": machine.described(),
            "data": photos.described(data),
            "batch_size": args.batch_size,
            "rounds": rounds,
            "left": left,
            "failed": failed,
        }
        if args.json:
            write(args.json, results)  # after each round: an interrupted one keeps the earlier
    return results


def write(path: Path, results: dict[str, Any]) -> None:
    beside = path.with_name(f".{path.name}.writing")
    with open(beside, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def shown(results: dict[str, Any]) -> str:
    """Results as Markdown."""
    left = "".join(f"- left out: {name}: {why}\n" for name, why in results["left"].items())
    return (
        f"Machine: {results['machine']}.\n"
        f"Images: {results['data']}; {results['batch_size']} a step and rank.\n\n"
        f"{rendered(results['rounds'], RATIOS)}\n\n{left}".rstrip()
    )


def at_least_one(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return int(text)


def pattern(text: str) -> re.Pattern:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from error


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag("--data", type=Path, help="folder of images (default: made by benchmarks.photos, kept)")
    flag(
        "--only",
        metavar="PATTERN",
        type=pattern,
        default="",
        help="contestants whose name it is found in",
    )
    flag("--rounds", type=at_least_one, default=5, help="default: 5")
    flag("--steps", type=at_least_one, default=14, help="training steps on the clock (default: 14)")
    flag("--epochs", type=at_least_one, help="at most so many passes, where those are counted")
    flag("--batch-size", type=at_least_one, default=32, help="images a step and rank (default: 32)")
    flag("--torch-python", metavar="PATH", default=sys.executable, help="a Python with PyTorch")
    flag("--json", type=Path, metavar="FILE", help="results to write, after each round")
    flag("--show", type=Path, metavar="FILE", help="print the tables of such a file, and run none")
    flag("--list", action="store_true", help="print the contestants, and run none")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 where a contestant failed, for whatever but a missing package."""
    args = parse(argv)
    names = [name for name in CONTESTANTS if args.only.search(name)]
    if args.list or not names:
        print("\n".join(CONTESTANTS))
        return 0 if args.list else 2
    if args.show:
        print(shown(json.loads(args.show.read_text(encoding="utf-8"))))
        return 0
    data = args.data or photos.kept()
    try:
        photos.described(data)
    except ValueError as error:
        sys.exit(str(error))
    results = run_rounds(names, data, args)
    print(shown(results))
    return 1 if results["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
