"""Write an HTML report of a training run: python -m dist_ft.report RUN.

It is one file that needs no network: scores with intervals, curves, the confusion matrix, the worst
mistakes and the least certain images, speed, settings, and the command that repeats the run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dist_ft import cli
from dist_ft.distributed import threads


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dist_ft.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run: its --out")
    parser.add_argument(
        "--compare", type=Path, nargs="+", default=[], metavar="RUN", help="runs to compare it with"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="HTML file (default: RUN/report.html)"
    )
    parser.add_argument(
        "--data", metavar="DIR", help="folder of the test images (default: that of the run)"
    )
    parser.add_argument(
        "--images", choices=("yes", "no"), default="yes", help="show test images (default: yes)"
    )
    args = parser.parse_args()
    out = args.out or args.run / "report.html"
    num_threads = threads.bind_cores()
    cli.require_mxnet()
    from dist_ft.distributed import startup  # imports MXNet
    from dist_ft.reporting import run_report

    with cli.standard_output(), startup.start() as world:
        with_images = args.images == "yes"
        run_report.write(args.run, out, world, num_threads, args.compare, args.data, with_images)
        if world.is_main:
            print(f"{out}: {out.stat().st_size / 1e3:,.0f} kB")


if __name__ == "__main__":
    main()
