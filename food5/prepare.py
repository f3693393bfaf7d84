"""Make food5 of Food-101: five dishes, 700 photographs of each to train on and 300 to test on.

    python food5/prepare.py food-101.tar.gz

SOURCE is Food-101 as it is offered (.tar.gz), unpacked, or Kaggle's .zip of it: images/CLASS/*.jpg,
and meta/train.txt and meta/test.txt, wherever they lie in it. Test images come from Food-101's own
test list, then from what training leaves of its training list; without lists the split is drawn.

No picture gets into both splits. Of copies, found by their bytes and to the eye, one is used where
the class has images enough without the others; else all of them go to the split of the first, so
that a class of 1,000 still gives 700 and 300. What was made of them is printed.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where dist_ft is not installed

from divide import SPLITS, Lists, divide, pictures
from food101 import unpack

from dist_ft import duplicates
from dist_ft.audit import audit, report
from dist_ft.errors import UserError

DISHES = ("apple_pie", "baby_back_ribs", "baklava", "beef_carpaccio", "beef_tartare")
TABLE = "split.csv"
COLUMNS = ("split", "class", "file", "sha256")
NUM_SHOWN = 5  # lines of a kind


def choose(pool: Path, lists: Lists, args: argparse.Namespace) -> dict[str, str]:
    """The split of each image to be used, as CLASS/NAME; says what was made of copies.

    Raises UserError for classes that have too few images.
    """
    files = sorted(pool.glob("*/*"))
    images = [
        duplicates.Image("", file.parent.name, f"{file.parent.name}/{file.name}", file.read_bytes)
        for file in files
    ]
    looks, unreadable = duplicates.look_at(images)
    groups = [] if args.allow_leak else duplicates.groups(looks)
    first_of = {image.path: group.first.path for group in groups for image in group.images}
    by_class: dict[str, list[str]] = {}
    for image in images:
        if image.path not in unreadable:
            by_class.setdefault(image.label, []).append(image.path)
    counts = {"train": args.train, "test": args.test}
    needed = args.train + args.test
    classes = {
        name: pictures(paths, lists, first_of, needed, args.seed)
        for name, paths in by_class.items()
    }
    split_of = divide(classes, first_of, counts)
    _say("unreadable, left out", [f"{path}: {what}" for path, what in unreadable.items()])
    _say("pictures that several images show", [_fates(g, split_of) for g in groups])
    _check_counts(split_of, by_class, counts, groups)
    return split_of


def _say(what: str, lines: Sequence[str]) -> None:
    if lines:
        print(f"{len(lines)} {what}", *lines[:NUM_SHOWN], sep="\n  ")
    if len(lines) > NUM_SHOWN:
        print(f"  and {len(lines) - NUM_SHOWN} more")


def _fates(group: duplicates.Group, split_of: dict[str, str]) -> str:
    """What becomes of the images that show one picture."""
    paths = [image.path for image in group.images]
    return ", ".join(f"{path} ({split_of.get(path, 'left out')})" for path in paths)


def _check_counts(
    split_of: dict[str, str],
    by_class: dict[str, list[str]],
    counts: dict[str, int],
    groups: Sequence[duplicates.Group],
) -> None:
    found = Counter((split, path.split("/")[0]) for path, split in split_of.items())
    short = [
        f"{name} has {found[split, name]} of {counts[split]} for {split}"
        for name in by_class
        for split in SPLITS
        if found[split, name] < counts[split]
    ]
    if short:
        names = {line.split()[0] for line in short}
        shared = [_fates(g, split_of) for g in groups if names & {i.label for i in g.images}]
        because = f" without pictures in both: {'; '.join(shared[:NUM_SHOWN])}" if shared else ""
        or_allow = ", or let copies be in both with --allow-leak" if shared else ""
        raise UserError(
            f"{'; '.join(short)}{because}; ask for fewer with --train and --test{or_allow}"
        )


def build(args: argparse.Namespace) -> None:
    """Put train/, test/ and split.csv into args.out; all of it, or nothing where it raises."""
    args.out.mkdir(parents=True, exist_ok=True)
    for left in args.out.glob(".prepare-*"):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".prepare-", dir=str(args.out)) as name:
        beside, pool = Path(name), Path(name) / "pool"
        lists = unpack(args.source, () if args.classes == ["all"] else args.classes, pool)
        rows = []
        for path, split in sorted(choose(pool, lists, args).items(), key=lambda item: item[::-1]):
            target = beside / split / path
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(pool / path, target)
            rows.append((split, *path.split("/"), _sha256(target)))
        with open(beside / TABLE, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
        examine(beside, args.allow_leak)
        os.sync()
        # train/ is the first to go and the last to come: who finds it finds all.
        for name in ("train", "test", TABLE):
            if (args.out / name).exists():
                os.replace(args.out / name, beside / f"old-{name}")
        for name in (TABLE, "test", "train"):
            os.replace(beside / name, args.out / name)


def examine(root: Path, allow_leak: bool) -> None:
    """Prints what the audit finds. Raises UserError for leaks that are not allowed."""
    findings = audit(str(root))
    leaks = list(map(str, findings.leaks()))
    if leaks and not allow_leak:
        raise UserError(
            f"{len(leaks)} of the test images show a picture of train: "
            f"{'; '.join(leaks[:NUM_SHOWN])}; ask for fewer images with --train and --test, or"
            " use them all the same with --allow-leak"
        )
    for finding in report(findings):
        print(finding.shown(NUM_SHOWN))


def verify(args: argparse.Namespace) -> None:
    """Compare the images with split.csv, and that with what is asked for. Raises UserError."""
    remedy = "build anew with --overwrite, or choose another --out"
    with open(args.out / TABLE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    digests = {f"{row['split']}/{row['class']}/{row['file']}": row["sha256"] for row in rows}
    there = {
        path.relative_to(args.out).as_posix(): path
        for split in SPLITS
        for path in (args.out / split).glob("*/*")
    }
    wrong = [f"{path} is missing" for path in sorted(digests.keys() - there.keys())]
    wrong += [f"{path} was added" for path in sorted(there.keys() - digests.keys())]
    both = sorted(digests.keys() & there.keys())
    wrong += [f"{path} has changed" for path in both if _sha256(there[path]) != digests[path]]
    if wrong:
        more = f" and {len(wrong) - NUM_SHOWN} more" if len(wrong) > NUM_SHOWN else ""
        shown = ", ".join(wrong[:NUM_SHOWN])
        raise UserError(f"{args.out}: not as {TABLE} has it: {shown}{more}; {remedy}")
    counts = Counter((row["class"], row["split"]) for row in rows)
    known = {name for name, _ in counts}
    wanted = known if args.classes == ["all"] else set(args.classes)
    asked = {(name, split): getattr(args, split) for name in wanted for split in SPLITS}
    if counts != asked:
        sizes = " and ".join(sorted({f"{number} {split}" for (_, split), number in counts.items()}))
        raise UserError(
            f"{args.out}: has {sizes} images of each of {', '.join(sorted(known))}, which is not"
            f" what is asked for; {remedy}"
        )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def at_least(least: int):
    """The argparse type of whole numbers from least."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return number


def parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument
    flag("source", type=Path, metavar="SOURCE", help="Food-101: .tar.gz, .zip or folder")
    known = f"classes to take, or all (default: {' '.join(DISHES)})"
    flag("--classes", nargs="+", default=list(DISHES), metavar="CLASS", help=known)
    flag("--train", type=at_least(1), default=700, help="training images a class (default: 700)")
    flag("--test", type=at_least(1), default=300, help="test images a class (default: 300)")
    folder = Path(__file__).parent
    flag("--out", type=Path, default=folder, help=f"folder to get them (default: {folder})")
    flag("--seed", type=at_least(0), default=0, help="of the split, without lists (default: 0)")
    flag("--allow-leak", action="store_true", help="let copies be in both splits")
    flag("--overwrite", action="store_true", help="replace the images in --out")
    args = parser.parse_args(argv)
    if len(set(args.classes)) < 2 and args.classes != ["all"]:
        parser.error(f"--classes {args.classes[0]}: a classifier needs at least two")
    return args


def main(argv=None) -> int:
    """Return the exit status: 0, 1 with a message, 130 after Ctrl-C, 143 after SIGTERM."""
    args = parse(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what lies beside is removed
    start = time.monotonic()
    try:
        if is_built(args):
            verify(args)
            done = f"verified by {TABLE}; {args.source} was not read"
        else:
            build(args)
            done = f"built from {args.source}"
    except (UserError, OSError) as error:
        print(f"food5: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("food5: interrupted; nothing was changed", file=sys.stderr)
        return 130
    elapsed_s = time.monotonic() - start
    print(f"{args.out}: {args.train} train and {args.test} test images a class, {done} in", end=" ")
    print(f"{elapsed_s:.0f} s")
    return 0


def is_built(args: argparse.Namespace) -> bool:
    """Whether to verify what an earlier run has built. Raises UserError for other images."""
    if args.overwrite:
        return False
    if (args.out / TABLE).exists():
        return (args.out / "train").exists()  # else that run was cut at its very end
    for path in (path for split in SPLITS for path in (args.out / split).rglob("*")):
        if path.is_file():
            raise UserError(f"{path} exists; name another --out or say --overwrite")
    return False


if __name__ == "__main__":
    sys.exit(main())
