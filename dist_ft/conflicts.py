"""Settings that cannot be combined."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Iterator

from dist_ft import split_names
from dist_ft.settings import flag_of

if TYPE_CHECKING:
    from dist_ft.config import Config

PATHS = (
    *("data", "train_list", "val_list", "test_list", "cache_dir", "weights", "class_weights"),
    *("horovod_timeline", "out", "resume", "preview"),
)
OPTIMIZERS_WITH_MOMENTUM = ("sgd", "nag", "signum")


def conflicts(c: Config) -> Iterator[str]:
    """One line for each pair of settings that cannot be combined."""
    unusable = [*_path_problems(c)]
    yield from unusable or _path_conflicts(c)
    yield from _split_conflicts(c)
    yield from _elastic_conflicts(c)
    yield from _augmentation_conflicts(c)
    yield from _recipe_conflicts(c)
    yield from _pattern_problems(c)


def _path_problems(c: Config) -> Iterator[str]:
    for name in PATHS:
        path = getattr(c, name)
        try:
            is_utf8 = os.fsencode(path) == path.encode("utf-8", "replace")
        except UnicodeEncodeError:
            encoding = sys.getfilesystemencoding()
            yield (
                f"{flag_of(name)} {path!a}: the file names of this process are in {encoding}, which"
                " has no such characters; set LC_ALL=C.UTF-8, or choose another path"
            )
            continue
        if "\0" in path:
            yield f"{flag_of(name)} {path!a}: contains a null character; choose another path"
        if name == "horovod_timeline" and not is_utf8:
            yield f"{flag_of(name)} {path!a}: is not in UTF-8; choose another path"


def _path_conflicts(c: Config) -> Iterator[str]:
    if c.cache_side and (c.cache == "off" or c.cache_side < c.image_size):
        yield f"--cache-side {c.cache_side}: needs --cache ram or disk, and at least --image-size"
    if c.resize and c.resize < c.image_size:
        yield f"--resize {c.resize}: must be at least --image-size {c.image_size}"
    out, data = Path(os.path.abspath(c.folder)), Path(os.path.abspath(c.data))
    inside = out.relative_to(data).parts if data in out.parents else ()
    is_class = c.val_share > 0 and len(inside) == 1  # if data has no folders of splits
    if inside and (is_class or inside[0].lower() in split_names.ALL):
        yield f"--out {c.folder}: is inside the images of --data; choose another folder"


def _split_conflicts(c: Config) -> Iterator[str]:
    if c.val_list and c.val_share:
        yield f"--val-share {c.val_share}: --val-list has the validation images; drop one of them"
    if (c.val_list or c.test_list) and not c.train_list:
        yield "--val-list and --test-list: need --train-list"
    if c.train_list and not (c.val_list or c.test_list or c.val_share):
        yield "--train-list: needs --test-list, --val-list or --val-share"


def _elastic_conflicts(c: Config) -> Iterator[str]:
    if not c.elastic:
        return
    if c.scale_batch:
        yield "--elastic: the batch size must not change with the ranks; drop --scale-batch"
    if c.autotune or c.horovod_timeline:
        yield "--elastic: does not work with --autotune or --horovod-timeline; drop them"
    if c.num_groups > 1:
        yield f"--elastic --num-groups {c.num_groups}: all gradients are one group; drop it"
    if c.dtype == "auto":
        yield "--elastic --dtype auto: an added rank could not choose; name a type"


def _augmentation_conflicts(c: Config) -> Iterator[str]:
    if c.preview and not c.preview.lower().endswith((".png", ".jpg", ".jpeg")):
        yield f"--preview {c.preview}: must end with .png, .jpg or .jpeg"


def _recipe_conflicts(c: Config) -> Iterator[str]:
    if c.autotune and c.fusion_mb and c.cycle_ms:
        yield "--autotune: tunes --fusion-mb and --cycle-ms; drop one of them"
    if c.balance and c.class_weights == "balanced":
        yield "--balance and --class-weights balanced: both balance the classes; drop one of them"
    if c.momentum and c.optimizer not in OPTIMIZERS_WITH_MOMENTUM:
        yield f"--momentum {c.momentum}: {c.optimizer} has none; set --momentum 0"
    if (c.warmup_epochs or 0) > c.epochs:
        yield f"--warmup-epochs {c.warmup_epochs}: must be at most --epochs {c.epochs}"
    if bool(c.step_epochs) != (c.schedule == "step"):
        yield "--step-epochs and --schedule step need each other"


def _pattern_problems(c: Config) -> Iterator[str]:
    for pattern in c.freeze:
        yield from _regex_problems(flag_of("freeze"), pattern)
    for pair in c.lr_mult:
        pattern, _, number = pair.rpartition("=")
        if not pattern or not re.fullmatch(r"\d+(\.\d*)?([eE][+-]?\d+)?|\.\d+", number):
            yield f"--lr-mult {pair}: must be PATTERN=X with a number X of at least 0"
        yield from _regex_problems(flag_of("lr_mult"), pattern)


def _regex_problems(flag: str, pattern: str) -> Iterator[str]:
    try:
        re.compile(pattern)
    except re.error as error:
        yield f"{flag} {pattern}: not a regular expression: {error}"
