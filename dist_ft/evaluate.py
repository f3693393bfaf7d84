"""Evaluate a trained network on labeled images: `python -m dist_ft.evaluate RUN DATA`.

DATA has a folder for each class, or contains such folders in DATA/test (or DATA/val, if there is no
test), or is a set of RecordIO archives. Classes are matched by name; DATA need not have all of
them. Under horovodrun the images are divided among the processes, with the same counts. The exit
status is 1 if an image cannot be read.
"""

import argparse
import sys
from pathlib import Path

from dist_ft import cli, files
from dist_ft.distributed import threads
from dist_ft.text import on_one_line


def main() -> None:
    args = _parser().parse_args()
    num_threads = threads.bind_cores()
    cli.require_mxnet()
    from dist_ft.distributed import startup  # loads MXNet
    from dist_ft.inference import model_evaluation, trained_model, tta

    with cli.standard_output(), startup.start(args.device) as world:
        with world.raise_on_all_ranks():
            files.check_output_file(args.json, "--json")
            files.check_output_file(args.png, "--png")
            model = trained_model.load(args.run)
            split = model_evaluation.split_of_run(model, args.data, args.split, args.list)
        net = tta.augmented(model.network(world, args.dtype), args.tta, len(model.classes))
        workers = args.num_workers or num_threads
        assessment = model_evaluation.assess(net, model, split, world, workers, args.tta)
        if world.is_main:
            cli.write_json(args.json, "--json", assessment.results)
            model_evaluation.write_confusion(assessment, args.png)
            print("\n".join(assessment.lines()), flush=True)
            for reason in assessment.unreadable.values():
                print(on_one_line(reason), file=sys.stderr)
    # Only rank 0 fails: the launcher would end it if another rank failed first.
    if assessment.unreadable and world.is_main:
        sys.exit(f"dist_ft: {len(assessment.unreadable)} images cannot be read")


def _parser() -> argparse.ArgumentParser:
    parser = cli.command_parser("evaluate", __doc__)
    cli.add_run(parser)
    flag = parser.add_argument
    flag("data", metavar="DATA", help="folder of labeled images")
    flag("--split", default="test", choices=("test", "val", "train"), help="default: %(default)s")
    text = "evaluate the images of FILE, paths below DATA and labels, instead of a split"
    flag("--list", type=Path, metavar="FILE", help=text)
    flag("--json", type=Path, metavar="FILE", help="also write all results to FILE")
    flag("--png", type=Path, metavar="FILE", help="also draw the confusion matrix to FILE")
    cli.add_device(parser)
    cli.add_dtype(parser)
    cli.add_tta(parser)
    cli.add_num_workers(parser)
    return parser


if __name__ == "__main__":
    main()
