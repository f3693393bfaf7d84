"""What all commands share: flags, logging, standard output, and `dist-ft`."""

from __future__ import annotations

import argparse
import errno
import importlib.util
import logging
import os
import runpy
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Iterator

from dist_ft import files
from dist_ft.config import Config
from dist_ft.errors import UserError
from dist_ft.job_settings import DEVICES, DTYPES
from dist_ft.settings import ConfigError
from dist_ft.text import as_json

COMMANDS = ("train", "doctor", "pack", "bench", "audit", "predict", "report", "evaluate", "export")


def main() -> None:
    """`dist-ft train ...` is `python -m dist_ft.train ...`."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        sys.exit(f"usage: dist-ft {{{','.join(COMMANDS)}}} [--help] ...")
    del sys.argv[1]
    runpy.run_module(f"dist_ft.{name}", run_name="__main__", alter_sys=True)


def require_mxnet() -> None:
    """Exits with one line if MXNet is not installed: it is an extra, for a CPU or for GPUs."""
    if importlib.util.find_spec("mxnet") is None:
        sys.exit(
            "dist_ft: MXNet is not installed: pip install 'dist-ft[cpu]', or see README.md for GPUs"
        )


# Standard output and messages


@contextmanager
def standard_output(error_status: int = 1) -> Iterator[None]:
    """Wraps the work of a command that prints results.

    Configures logging, and escapes characters that the output's encoding lacks. If the reader
    closes the pipe, as `| head` does, the command ends silently with status 1; if the disk is
    full, with a message. A UserError ends it with its message and `error_status`.
    """
    configure_logging()
    try:
        yield
        sys.stdout.flush()
    except UserError as error:
        sys.stdout.flush()
        print(f"dist_ft: {error}", file=sys.stderr)
        sys.exit(error_status)
    except BrokenPipeError:
        _discard_output()
        sys.exit(1)
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EIO):
            raise
        _discard_output()
        sys.exit(f"dist_ft: standard output cannot be written ({error.strerror})")


def _discard_output() -> None:
    """Drops buffered output, which Python would try to write again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def configure_logging() -> None:
    """Prints INFO messages of dist_ft to standard output, and warnings to standard error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not under a test's capture
            stream.reconfigure(errors="backslashreplace")
    logger = logging.getLogger("dist_ft")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers[:] = [_ConsoleHandler()]


class _ConsoleHandler(logging.Handler):
    """Prints plain lines, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        is_warning = record.levelno >= logging.WARNING
        stream = sys.stderr if is_warning else sys.stdout
        text = f"dist_ft: {record.getMessage()}" if is_warning else record.getMessage()
        if "tqdm" in sys.modules:
            from tqdm import tqdm

            tqdm.write(text, file=stream)
        else:
            print(text, file=stream)
        stream.flush()


def write_json(path: Path | None, flag: str, value: Any) -> None:
    """Writes plain values to the file that the user named with `flag`, if any; raises UserError."""
    if path:
        with files.output_file(path, flag) as temporary:
            temporary.write_text(as_json(value, indent=1) + "\n", encoding="utf-8")


# Flags


def exit_for_settings(parser: argparse.ArgumentParser, error: ConfigError) -> Any:
    """Exits with status 2, listing the problems."""
    problems = "\n".join("  " + line for line in str(error).splitlines())
    parser.exit(2, f"dist_ft: these settings cannot be used:\n{problems}\n")


def command_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """A parser whose help shows the description, the command's docstring, line by line."""
    return argparse.ArgumentParser(
        prog=f"python -m dist_ft.{command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds RUN, the positional argument that names a trained network."""
    help = "folder of a run, whose best checkpoint is used, or of a checkpoint"
    parser.add_argument("run", type=Path, metavar="RUN", help=help)


def add_count(parser: argparse.ArgumentParser, flag: str, default: int, help: str) -> None:
    """Adds a flag for a whole number of at least 1; with a default of 0, `help` names another."""
    help = f"{help} (default: %(default)s)" if default else help
    parser.add_argument(flag, type=_count, default=default, metavar="N", help=help)


def add_splits(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of dist_ft.train that divide a data set; their names are Config's."""
    flag = parser.add_argument_group("splits", "flags as for dist_ft.train").add_argument
    flag("--val-share", type=float, default=Config.val_share, metavar="X", help="taken from train")
    for name in ("train", "val", "test"):
        flag(f"--{name}-list", default="", metavar="FILE", help="paths below DATA and labels")


def add_num_workers(parser: argparse.ArgumentParser) -> None:
    """Adds --num-workers; None means one thread for each core of the process."""
    help = "decoding threads per process (default: one per core)"
    parser.add_argument("--num-workers", type=_count, metavar="N", help=help)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds --device, as in train."""
    help = "auto: a GPU if MXNet sees one (default: %(default)s)"
    parser.add_argument("--device", choices=DEVICES, default=Config.device, help=help)


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Adds --dtype: the type that a trained network computes in; "" means that of its training."""
    help = "type of the computation (default: that of the training, or float32 if unavailable)"
    parser.add_argument("--dtype", choices=("", *DTYPES), default="", metavar="TYPE", help=help)


def add_tta(parser: argparse.ArgumentParser) -> None:
    """Adds --tta, test-time augmentation."""
    help = "flip: mean probabilities of an image and its mirror image (default: %(default)s)"
    parser.add_argument("--tta", choices=("none", "flip"), default="none", help=help)


def add_share(parser: argparse.ArgumentParser, flag: str, default: float, help: str) -> None:
    """Adds a flag for a share, above 0 and at most 1."""
    help = f"{help} (default: %(default)s)"
    parser.add_argument(flag, type=_share, default=default, metavar="X", help=help)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _share(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most 1")
