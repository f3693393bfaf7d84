"""Checks whether a run could start here: `python -m dist_ft.doctor`, or under horovodrun for all
ranks of a job.

Prints a line for each check: what was found and, if needed, the remedy. Exits with status 1 if a
run could not start.
"""

from __future__ import annotations

import argparse
import sys

from dist_ft import cli
from dist_ft.config import Config
from dist_ft.distributed import threads
from dist_ft.settings import ConfigError


def parse() -> tuple[Config, bool]:
    """The settings, and whether the data set was named."""
    parser = argparse.ArgumentParser(prog="python -m dist_ft.doctor", description=__doc__)
    flag = parser.add_argument
    flag("--data", help=f"image folder (default: {Config.data}, if it exists)")
    flag("--model", default=Config.model, help="network (default: %(default)s)")
    flag("--weights", default=Config.weights, help="as for dist_ft.train")
    flag("--image-size", type=int, default=Config.image_size, help="px (default: %(default)s)")
    flag("--allow-leak", action="store_true", help="as for dist_ft.train")
    flag("--out", default="", help="folder of the run")
    cli.add_splits(parser)
    settings = {k: v for k, v in vars(parser.parse_args()).items() if v is not None}
    try:
        return Config(**settings), "data" in settings
    except ConfigError as error:
        return cli.exit_for_settings(parser, error)


def main() -> None:
    config, is_data_named = parse()
    num_threads = threads.bind_cores()  # before MXNet is imported
    cli.require_mxnet()
    from dist_ft.diagnostics.finding import FAIL
    from dist_ft.diagnostics.run_checks import check_all
    from dist_ft.distributed import startup

    has_failed = False
    with cli.standard_output(), startup.start() as world:
        ranks = check_all(config, is_data_named, num_threads, world)
        for rank, (name, findings) in enumerate(ranks):
            for finding in findings:
                is_failure = finding.severity == FAIL
                has_failed |= is_failure
                if world.is_main and (rank == 0 or is_failure):
                    prefix = f"on {name}:\n" if rank else ""
                    print(prefix + finding.as_text(num_examples=3))
    if has_failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
