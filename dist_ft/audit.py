"""Checks every image of a data set: `python -m dist_ft.audit DATA`.

Finds files that cannot be read, pictures that are in two splits, pictures with two labels,
duplicates, classes of very different size, and images that are tiny, elongated or of a single
color. Duplicates are found by their bytes and by perceptual hash: also re-encoded, resized and
mirrored ones.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from dist_ft import cli, files
from dist_ft.config import Config
from dist_ft.settings import ConfigError
from dist_ft.text import on_one_line


def main() -> None:
    args, config = _parse()
    from dist_ft.diagnostics import dataset_audit  # imports OpenCV

    start = time.monotonic()
    with cli.standard_output(error_status=2):
        files.check_output_file(args.json, "--json")
        audit = dataset_audit.audit_dataset(config, args.alike)
        num_images = sum(sum(split.values()) for split in audit.num_images.values())
        elapsed_s = time.monotonic() - start
        print(on_one_line(f"{args.data}: {num_images:,} images in {elapsed_s:.0f} s"))
        for finding in dataset_audit.findings(audit):
            print(finding.as_text(args.show))
        cli.write_json(args.json, "--json", audit.as_json())
    sys.exit(0 if audit.is_clean else 1)


def _parse() -> tuple[argparse.Namespace, Config]:
    """The arguments, and the settings of the data set."""
    parser = cli.command_parser("audit", __doc__)
    parser.epilog = (
        "Exits with status 1 if an image is unreadable, or if two splits, or two classes,\n"
        "share a picture; with 2 if DATA is not a data set; else with 0."
    )
    parser.add_argument("data", metavar="DATA", help="image folder, as for dist_ft.train")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all findings there")
    cli.add_count(parser, "--show", 5, "examples of each finding")
    cli.add_share(parser, "--alike", 0.9, "similarity of duplicates, from 0.5 to 1")
    cli.add_splits(parser)
    args = parser.parse_args()
    if args.alike < 0.5:
        parser.error(f"--alike {args.alike:g}: must be at least 0.5, or any two pictures match")
    names = ("data", "val_share", "train_list", "val_list", "test_list")
    try:
        return args, Config(**{name: getattr(args, name) for name in names})
    except ConfigError as error:
        return cli.exit_for_settings(parser, error)


if __name__ == "__main__":
    main()
