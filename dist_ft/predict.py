"""Predict the classes of images: `python -m dist_ft.predict RUN PATH...`.

A PATH is an image, a folder, a pattern such as 'photos/**/*.jpg', or '-' for a list of paths on
standard input, one per line. There is one row per image, in this order. An image that cannot be
read or classified has its error in its row, and the exit status is 1. Under horovodrun, which marks
each line with its rank, the images are divided among the processes; --output FILE has no such
marks.
"""

import argparse
import sys
from collections import deque
from pathlib import Path

from dist_ft import cli
from dist_ft.distributed import threads
from dist_ft.inference import writers


def main() -> None:
    args = _parser().parse_args()
    num_threads = threads.bind_cores()
    cli.require_mxnet()
    from dist_ft.distributed import startup  # loads MXNet
    from dist_ft.inference import inputs, predictor, trained_model

    kind, num_unreadable = writers.format_of(args.format, args.output), 0
    with cli.standard_output(), startup.start(args.device) as world:
        with world.raise_on_all_ranks():
            model = trained_model.load(args.run)
            predictor.check_options(model, args.top, args.out)
            writers.check_output(kind, args.output)
            paths = inputs.list_images(args.paths, sys.stdin) if world.is_main else []
        paths = world.gather(paths)[0]  # only rank 0 has a standard input
        net = model.network(world, args.dtype, fused=True)
        workers = args.num_workers or num_threads
        parts = predictor.predict(net, model, paths, world, args.top, workers, args.out)
        if world.is_main:
            num_unreadable = writers.write(parts, kind, args.output, args.top, paths, model.classes)
        deque(parts, maxlen=0)  # the other ranks' rows are part of rank 0's
    if num_unreadable:
        sys.exit(
            f"dist_ft: {num_unreadable} of {len(paths)} images have an error instead of a label"
        )


def _parser() -> argparse.ArgumentParser:
    parser = cli.command_parser("predict", __doc__)
    cli.add_run(parser)
    parser.add_argument("paths", metavar="PATH", nargs="+", help="image, folder, pattern, or '-'")
    cli.add_count(parser, "--top", 1, "labels per image")
    text = "default: from FILE's extension, else a table on a terminal, else csv"
    parser.add_argument("--format", choices=writers.FORMATS, help=text)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the rows to FILE")
    text = "write a thumbnail of each image to DIR/LABEL, an empty or new folder"
    parser.add_argument("--out", type=Path, metavar="DIR", help=text)
    cli.add_device(parser)
    cli.add_dtype(parser)
    cli.add_num_workers(parser)
    return parser


if __name__ == "__main__":
    main()
