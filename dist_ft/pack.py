"""Decodes a data set ahead of training, or packs it into archives: `python -m dist_ft.pack DATA`.

Without --recordio, fills the cache that `dist_ft.train --cache disk` uses. With it, writes
train.rec, test.rec and, if there are validation images, val.rec, as MXNet's im2rec does; `--data`
accepts their folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dist_ft import cli
from dist_ft.config import Config
from dist_ft.distributed import threads
from dist_ft.settings import ConfigError


def parse() -> tuple[Config, list]:
    """The settings of the cache; and folder, shorter side (px) and quality of the archives."""
    parser = argparse.ArgumentParser(prog="python -m dist_ft.pack", description=__doc__)
    parser.add_argument("data", metavar="DATA", help="folder of images, as for dist_ft.train")
    flag = parser.add_argument_group("cache", "flags that a run has to repeat").add_argument
    flag("--image-size", type=int, default=Config.image_size, help="px (default: %(default)s)")
    flag("--resize", type=int, default=Config.resize, help="px; 0: 8/7 of --image-size")
    flag("--keep-ratio", action="store_true", help="resize test images without distortion")
    flag("--cache-side", type=int, default=Config.cache_side, help="px; 0: that of --resize")
    flag("--cache-dir", default=Config.cache_dir, help="default: ~/.cache/dist_ft/images")
    cli.add_splits(parser)
    parser.add_argument("--seed", type=int, default=Config.seed, help="of the run's --val-share")
    flag = parser.add_argument_group("archives").add_argument
    flag("--recordio", metavar="DIR", type=Path, help="write archives to this folder instead")
    flag("--side", type=int, default=0, help="reduce the shorter side to this, px; 0: never")
    flag("--quality", type=int, default=95, help="of reduced images, 1..100 (default: 95)")
    settings = vars(parser.parse_args())
    archives = [settings.pop(name) for name in ("recordio", "side", "quality")]
    try:
        return Config(**settings, cache="disk"), archives
    except ConfigError as error:
        return cli.exit_for_settings(parser, error)


def main() -> None:
    config, (out, side, quality) = parse()
    from dist_ft.data import packing, sources, transforms  # imports OpenCV

    with cli.standard_output():
        dataset = sources.read_divided(config)
        if out:
            packing.write_archives(dataset, out, side, quality)
        else:
            spec = transforms.InputSpec(config.image_size, config.resize_px, config.keep_ratio)
            folder, num_workers = config.cache_folder, threads.usable_cores()
            packing.fill_cache(dataset, spec, config.cache_side_px, folder, num_workers)


if __name__ == "__main__":
    main()
