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

from dist_ft import cli, files
from dist_ft.distributed import threads
from dist_ft.inference import writers

TTA_NOTE = "dist_ft: --tta flip: probabilities are means for an image and its mirror image"


def main() -> None:
    args = _parser().parse_args()
    num_threads = threads.bind_cores()
    cli.require_mxnet()
    from dist_ft.distributed import startup  # loads MXNet
    from dist_ft.inference import feature_file, inputs, outputs, predictor, trained_model, tta

    kind, num_unreadable = writers.format_of(args.format, args.output), 0
    with cli.standard_output(), startup.start(args.device) as world:
        with world.raise_on_all_ranks():
            model = trained_model.load(args.run)
            predictor.check_options(model, args.top, args.out, args.explain)
            writers.check_output(kind, args.output)
            files.check_output_file(args.features, "--features")
            paths = inputs.list_images(args.paths, sys.stdin) if world.is_main else []
        paths = world.gather(paths)[0]  # only rank 0 has a standard input
        wanted = outputs.Outputs(model, args.features is not None, args.explain)
        net = model.network(world, args.dtype, fused=True, outputs=wanted.graph)
        net = tta.augmented(net, args.tta, len(model.classes))
        workers = args.num_workers or num_threads
        parts = predictor.predict(net, model, paths, world, args.top, workers, args.out, wanted)
        if world.is_main:
            if args.tta != "none":
                print(TTA_NOTE, file=sys.stderr)
            with feature_file.copied(parts, args.features, wanted.num_features) as rows:
                num_unreadable = writers.write(
                    rows, kind, args.output, args.top, paths, model.classes, args.tta
                )
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
    text = "with --out: show in each thumbnail where the network sees its label (red: most)"
    parser.add_argument("--explain", action="store_true", help=text)
    text = (
        "write the inputs of the network's last layer, (n, D) float32; row i is of the i-th image"
        " without an error"
    )
    parser.add_argument("--features", type=Path, metavar="FILE.npy", help=text)
    cli.add_device(parser)
    cli.add_dtype(parser)
    cli.add_tta(parser)
    cli.add_num_workers(parser)
    return parser


if __name__ == "__main__":
    main()
