"""Makes food5 from Food-101: five dishes, 700 photographs of each to train on and 300 to test on.

    python food5/prepare.py --download
    python food5/prepare.py food-101.tar.gz

--download gets the images of these dishes alone from the Hugging Face hub (about 330 MB; needs
pyarrow), or else the original archive (5 GB). It continues a download that was interrupted.

SOURCE is Food-101 as it is distributed (.tar.gz), unpacked, or Kaggle's .zip: images/CLASS/*.jpg,
meta/train.txt and meta/test.txt, anywhere inside. Test images come from Food-101's own test list,
then from the part of its training list that is not trained on. Without lists the split is random.

No picture is in both splits. Copies, found by their bytes and by perceptual hash, are left out if
the class has enough other images; otherwise all of them go to the same split, so that a class of
1,000 still gives 700 and 300. What was done is printed.
"""

from __future__ import annotations

import argparse
import fcntl
import math
import os
import shutil
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # if dist_ft is not installed

import split_table
from download import download
from food101 import DISHES, unpack
from replacement import existing_file, recover, replacing
from split import SPLITS, Request, select

from dist_ft.errors import UserError
from dist_ft.text import on_one_line

NAMES = (split_table.NAME, "test", "train")  # in the order in which they are replaced
PREFIX = ".prepare-"  # of temporary folders
CACHE = ".download"  # folder in --out that keeps an interrupted download


def prepare(
    source: Path | None, out: Path, request: Request, overwrite: bool, max_mb: float = math.inf
) -> str:
    """Builds train/, test/ and split.csv in `out`, or verifies those of an earlier run.

    source: None downloads Food-101, but at most max_mb. Returns what was done. Raises UserError and
    OSError, and then leaves `out` as it was.
    """
    if overwrite or not _is_built(out):
        out.mkdir(parents=True, exist_ok=True)
        with _locked(out):
            recover(out, NAMES, PREFIX)
            if overwrite or not _is_built(out):  # else another run has just finished
                if not overwrite:
                    _check_replaceable(out)
                return f"built from {build(source, out, request, max_mb)}"
    split_table.verify(out, request)
    return f"verified by {split_table.NAME}; {source or 'Food-101'} was not read"


def build(source: Path | None, out: Path, request: Request, max_mb: float) -> str:
    """Returns where the images are from."""
    with replacing(out, NAMES, PREFIX) as temporary:
        pool = temporary / "pool"
        if source is None:
            origin, lists = download(request.classes, out / CACHE, pool, max_mb)
        else:
            origin, lists = str(source), unpack(source, request.classes, pool)
        for path, split in select(pool, lists, request).items():
            target = temporary / split / path
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(pool / path, target)
        split_table.write(temporary)
        os.sync()
    shutil.rmtree(out / CACHE, ignore_errors=True)
    return origin


def _is_built(out: Path) -> bool:
    return all((out / name).exists() for name in NAMES)


def _check_replaceable(out: Path) -> None:
    """Raises UserError if there are images other than those that split.csv lists."""
    existing = existing_file(out, SPLITS)
    if existing and not ((out / split_table.NAME).exists() and split_table.is_part(out)):
        raise UserError(f"{existing} exists; choose another --out, or pass --overwrite")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Raises UserError if another process on this machine builds in the same folder."""
    folder = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process ends
        yield
    except BlockingIOError as error:
        raise UserError(
            f"{out}: another run of prepare.py is using it; wait for it, or choose another --out"
        ) from error
    finally:
        os.close(folder)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag, folder = parser.add_argument, Path(__file__).parent
    source = parser.add_mutually_exclusive_group(required=True)
    known = "Food-101: .tar.gz, .zip or folder"
    source.add_argument("source", type=Path, nargs="?", metavar="SOURCE", help=known)
    source.add_argument("--download", action="store_true", help="download Food-101")
    known = f"classes to use, or all (default: {' '.join(DISHES)})"
    flag("--classes", nargs="+", default=DISHES, metavar="CLASS", help=known)
    flag("--train", type=int, default=700, help="training images per class (default: 700)")
    flag("--test", type=int, default=300, help="test images per class (default: 300)")
    flag("--out", type=Path, default=folder, help=f"folder to write to (default: {folder})")
    flag("--seed", type=int, default=0, help="of the split, without lists (default: 0)")
    flag("--max-mb", type=float, default=math.inf, help="largest download to start, MB")
    flag("--allow-leak", action="store_true", help="allow copies in both splits")
    flag("--overwrite", action="store_true", help="replace the images in --out")
    args = parser.parse_args()
    for name, least in (("train", 1), ("test", 1), ("seed", 0)):
        if getattr(args, name) < least:
            parser.error(f"--{name} {getattr(args, name)}: must be at least {least}")
    if args.classes != ["all"] and len(set(args.classes)) < 2:
        parser.error(f"--classes {args.classes[0]}: a classifier needs at least two")
    return args


def main() -> None:
    """Exits with status 1 and a message, 69 if no server delivers, 75 if a download was cut off,
    130 after Ctrl-C, 143 after SIGTERM."""
    args = parse()
    sys.stdout.reconfigure(errors="backslashreplace")  # for names that its encoding cannot show
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # removes the temporary folder
    classes = [] if args.classes == ["all"] else args.classes
    counts = {"train": args.train, "test": args.test}
    request = Request(classes, counts, args.seed, args.allow_leak)
    start = time.monotonic()
    try:
        done = prepare(args.source, args.out, request, args.overwrite, args.max_mb)
    except (UserError, OSError) as error:
        print(f"food5: {on_one_line(str(error))}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))
    except KeyboardInterrupt:
        print("food5: interrupted", file=sys.stderr)
        sys.exit(130)
    elapsed_s = time.monotonic() - start
    images = f"{args.train} train and {args.test} test images per class"
    print(on_one_line(f"{args.out}: {images}, {done} in {elapsed_s:.0f} s"))


if __name__ == "__main__":
    main()
