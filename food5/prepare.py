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
import fcntl
import hashlib
import os
import shutil
import signal
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where dist_ft is not installed

from divide import SPLITS, Lists, divide, pictures
from food101 import unpack
from sample import has_old, replacing, undo

from dist_ft.diagnostics import duplicates
from dist_ft.diagnostics.dataset_audit import audit, report
from dist_ft.errors import UserError
from dist_ft.text import on_one_line

DISHES = ("apple_pie", "baby_back_ribs", "baklava", "beef_carpaccio", "beef_tartare")
TABLE = "split.csv"
COLUMNS = ("split", "class", "file", "sha256")
MADE = (TABLE, "test", "train")  # in the order in which they come
BESIDE = ".prepare-"  # what the names of folders of work begin with
REMEDY = "build anew with --overwrite, or choose another --out"
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
        print(f"{len(lines)} {what}", *map(on_one_line, lines[:NUM_SHOWN]), sep="\n  ")
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
    with replacing(args.out, MADE, BESIDE) as beside:
        pool = beside / "pool"
        lists = unpack(args.source, () if args.classes == ["all"] else args.classes, pool)
        rows = []
        for path, split in sorted(choose(pool, lists, args).items(), key=lambda item: item[::-1]):
            target = beside / split / path
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(pool / path, target)
            rows.append((split, *map(on_one_line, path.split("/")), _sha256(target)))
        with open(beside / TABLE, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
        examine(beside, args.allow_leak)
        os.sync()


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
    rows = read_table(args.out / TABLE)
    digests = {f"{row['split']}/{row['class']}/{row['file']}": row["sha256"] for row in rows}
    there = {
        "/".join((split, *map(on_one_line, path.parts[-2:]))): path
        for split in SPLITS
        for path in (args.out / split).glob("*/*")
    }
    wrong = [f"{path} is missing" for path in sorted(digests.keys() - there.keys())]
    wrong += [f"{path} was added" for path in sorted(there.keys() - digests.keys())]
    both = sorted(digests.keys() & there.keys())
    wrong += [f"{path} has changed" for path in both if not _has(there[path], digests[path])]
    if wrong:
        more = f" and {len(wrong) - NUM_SHOWN} more" if len(wrong) > NUM_SHOWN else ""
        shown = ", ".join(wrong[:NUM_SHOWN])
        raise UserError(f"{args.out}: not as {TABLE} has it: {shown}{more}; {REMEDY}")
    counts = Counter((row["class"], row["split"]) for row in rows)
    known = {name for name, _ in counts}
    wanted = known if args.classes == ["all"] else set(map(on_one_line, args.classes))
    asked = {(name, split): getattr(args, split) for name in wanted for split in SPLITS}
    if counts != asked:
        sizes = " and ".join(sorted({f"{number} {split}" for (_, split), number in counts.items()}))
        raise UserError(
            f"{args.out}: has {sizes} images of each of {', '.join(sorted(known))}, which is not"
            f" what is asked for; {REMEDY}"
        )


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of split.csv. Raises UserError where it is damaged."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is damaged ({error}); {REMEDY}") from error
    lacking = [name for name in COLUMNS if not rows or not all(row.get(name) for row in rows)]
    if lacking:
        raise UserError(f"{path}: is damaged (it lacks {', '.join(lacking)}); {REMEDY}")
    return rows


def _has(path: Path, sha256: str) -> bool:
    return path.is_file() and _sha256(path) == sha256  # a pipe would be waited for without end


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
    sys.stdout.reconfigure(errors="backslashreplace")  # for names that its encoding lacks
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what lies beside is removed
    start = time.monotonic()
    try:
        done = prepare(args)
    except (UserError, OSError) as error:
        print(f"food5: {on_one_line(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"food5: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 130
    elapsed_s = time.monotonic() - start
    counts = f"{args.train} train and {args.test} test images a class"
    print(on_one_line(f"{args.out}: {counts}, {done} in {elapsed_s:.0f} s"))
    return 0


def prepare(args: argparse.Namespace) -> str:
    """Verify what an earlier run has built, or build; returns which. Raises UserError, OSError."""
    if not is_built(args):
        args.out.mkdir(parents=True, exist_ok=True)
        with alone(args.out):
            clear(args.out)
            if not is_built(args):  # else by a run that has ended just now, or what is put back
                refuse_others(args)
                build(args)
                return f"built from {args.source}"
    verify(args)
    return f"verified by {TABLE}; {args.source} was not read"


def is_built(args: argparse.Namespace) -> bool:
    """Whether to verify what an earlier run has built."""
    return not args.overwrite and all((args.out / name).exists() for name in (TABLE, "train"))


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keeps other runs from building in a folder. Raises UserError where one is at it."""
    folder = os.open(out, os.O_RDONLY)
    try:
        _lock(folder, out)
        yield
    finally:
        os.close(folder)


def _lock(folder: int, out: Path) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however it does
    except BlockingIOError as error:
        raise UserError(
            f"{out}: another run of prepare.py is at work on it; wait for its end, or choose"
            " another --out"
        ) from error


def clear(out: Path) -> None:
    """Remove what a run that was killed has left, once what it had taken away is back."""
    for left in out.glob(f"{BESIDE}*"):
        if has_old(left) and (left / MADE[-1]).exists():  # without it all of the new has come
            undo(left, out, MADE)
        shutil.rmtree(left, ignore_errors=True)


def refuse_others(args: argparse.Namespace) -> None:
    """Raises UserError for images that are not to be replaced."""
    if args.overwrite or (args.out / TABLE).exists():  # of a run that was cut at its very end
        return
    for path in (path for split in SPLITS for path in (args.out / split).rglob("*")):
        if path.is_file():
            raise UserError(f"{path} exists; name another --out or say --overwrite")


if __name__ == "__main__":
    sys.exit(main())
