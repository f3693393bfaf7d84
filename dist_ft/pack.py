"""Decodes a data set ahead of training, or packs it into RecordIO archives.

Without --recordio, fills the cache that `dist_ft.train --cache disk` uses. With it, writes
train.rec and test.rec, as MXNet's im2rec does; `--data` accepts their folder.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from dist_ft import cli
from dist_ft.config import Config
from dist_ft.errors import UserError
from dist_ft.settings import ConfigError, flag_of

SETTINGS = ("image_size", "resize", "cache_side", "cache_dir")  # of train, that matter here


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dist_ft.pack",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag("data", help="folder of images")
    for field in fields(Config):
        if field.name in SETTINGS:
            help = field.metadata["help"]
            flag(flag_of(field.name), type=type(field.default), default=field.default, help=help)
    flag("--keep-ratio", action="store_true", help="as in dist_ft.train")
    flag("--recordio", metavar="DIR", type=Path, help="write archives there instead")
    flag("--side", type=int, default=0, help="of archives: shorter side, px (default: unchanged)")
    flag("--quality", type=int, default=95, help="of archives with --side: of JPEG, 1..100")
    args = parser.parse_args()
    settings = {name: getattr(args, name) for name in (*SETTINGS, "data", "keep_ratio")}
    try:
        config = Config(**settings, cache="disk")
    except ConfigError as error:
        cli.exit_for_settings(parser, error)
    with cli.standard_output():
        try:
            pack(config, args.recordio, args.side, args.quality)
        except UserError as error:
            sys.exit(f"dist_ft: {error}")


def pack(config: Config, recordio: Path | None, side: int, quality: int) -> None:
    """Fills the cache of `config`, or writes archives to the folder `recordio`."""
    from dist_ft.data import packing
    from dist_ft.data.image_folder import scan
    from dist_ft.data.transforms import InputSpec
    from dist_ft.distributed import threads

    dataset = scan(config.data)
    if recordio:
        packing.write_archives(dataset, recordio, side, quality)
        return
    spec = InputSpec(config.image_size, config.resize_px, config.keep_ratio)
    folder, num_workers = config.cache_folder, threads.usable_cores()
    packing.fill_cache(dataset, spec, config.cache_side_px, folder, num_workers)


if __name__ == "__main__":
    main()
