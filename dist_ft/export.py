"""Export a trained network for deployment: `python -m dist_ft.export RUN --to onnx --out FILE`.

The exported network maps (n, side, side, 3) uint8 RGB pixels to (n, classes) probabilities. gluon
and int8 write a folder: model-symbol.json and model-0000.params for gluon.SymbolBlock.imports, and
model.json with the classes and the preprocessing. onnx writes one file, with the same as metadata.

The export is read back and compared with the trained network, on the test images of --data or on
random noise, and is deleted if they differ. int8 has to keep the --equal-share of the labels.
Comparing ONNX needs onnxruntime.
"""

import argparse
from pathlib import Path

from dist_ft import cli
from dist_ft.distributed import threads
from dist_ft.errors import UserError


def main() -> None:
    parser = _parser()
    args = parser.parse_args()
    if args.to == "int8" and not args.data:
        parser.error("--to int8: needs images to calibrate with; add --data DIR")
    num_threads = threads.bind_cores()
    cli.require_mxnet()
    from dist_ft.distributed import startup  # loads MXNet
    from dist_ft.inference import exporter, trained_model

    with cli.standard_output(), startup.start("cpu") as world:
        if world.size > 1:
            raise UserError("dist_ft.export runs in one process; start it without horovodrun")
        model = trained_model.load(args.run)
        comparison = exporter.export(
            model, args.to, args.out, world, args.data, args.equal_share, num_threads
        )
        images = "the test images" if args.data else "random noise, as there is no --data"
        missing = "not compared, as onnxruntime is missing: pip install 'dist-ft[onnx]'"
        print(f"{args.out}: {f'{comparison}, on {images}' if comparison else missing}")


def _parser() -> argparse.ArgumentParser:
    parser = cli.command_parser("export", __doc__)
    cli.add_run(parser)
    text = "int8: gluon files with 8-bit convolutions, for a CPU"
    parser.add_argument("--to", required=True, choices=("gluon", "onnx", "int8"), help=text)
    text = "folder, or file for onnx"
    parser.add_argument("--out", required=True, type=Path, metavar="PATH", help=text)
    text = "labeled images, as for dist_ft.train; int8 needs them"
    parser.add_argument("--data", default="", metavar="DIR", help=text)
    cli.add_share(parser, "--equal-share", 0.97, "labels that int8 has to keep")
    return parser


if __name__ == "__main__":
    main()
