"""Short runs of every kind of recipe, by all ranks of a job: `recipes.py OUT DATA [MAX_STEPS]`.

With MAX_STEPS each run stops after so many steps, and is resumed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dist_ft import train
from dist_ft.config import Config
from dist_ft.distributed import startup, threads
from dist_ft.distributed.world import World
from dist_ft.settings_file import read_recipe
from tests.workers.runs import TINY

# 53 images, of which one is unreadable, in steps of 12, 12, 12, 12 and 5.
BASE = {**TINY, "batch_size": 12, "epochs": 1, "max_bad_share": 0.1}
FROZEN = {"model": "resnet18_v2", "backbone_lr_mult": 0.0}  # a frozen mobilenet gives 0
RECIPES: dict[str, dict] = {
    "plain": {},
    "accumulated": {"micro_batch": 2},
    "clipped": {"clip_norm": 0.5, "label_smoothing": 0.1},
    "clipped_and_accumulated": {"clip_norm": 0.5, "label_smoothing": 0.1, "micro_batch": 5},
    "weighted": {"class_weights": "balanced", "label_smoothing": 0.1},
    "balanced": {"balance": True, "trivial_augment": True, "micro_batch": 4},
    "mixed_balanced_and_accumulated": {
        "mixup": 0.4,
        "cutmix": 1.0,
        "balance": True,
        "micro_batch": 3,
    },
    "mixed_and_weighted": {"cutmix": 1.0, "class_weights": "balanced", "batch_size": 11},
    "augmented": {"crop_scale": 0.3, "flip": "both", "jitter": 0.4, "random_erasing": 0.5},
    "head_balanced": {**FROZEN, "balance": True, "views": 2, "micro_batch": 3, "jitter": 0.2},
    "head_mixed_and_weighted": {**FROZEN, "mixup": 1.0, "views": 0, "class_weights": "balanced"},
    "strong": {**read_recipe("strong"), "batch_size": 12},
}


def train_all(world: World, data: str, out: Path, max_steps: int = 0) -> None:
    """Makes the runs OUT/NAME."""
    for name, settings in RECIPES.items():
        paths = {"data": data, "out": str(out / name), "cache_dir": str(out / "cache")}
        for limit in (max_steps, 0) if max_steps else (0,):
            train.fit(Config(**{**BASE, **paths, **settings, "max_steps": limit}), world)


def main() -> None:
    threads.set_num_threads()
    out, data, *max_steps = sys.argv[1:]
    with startup.start(device="cpu", stall_timeout_s=60) as world:
        train_all(world, data, Path(out), *map(int, max_steps))


if __name__ == "__main__":
    main()
