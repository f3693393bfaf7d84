"""Measures the speed of a training run: `python -m dist_ft.bench MODE [settings of dist_ft.train]`.

loader     images per second that are decoded and augmented, and what each part of it costs
step       training steps on a batch in memory: forward and backward, allreduce, update
train      training steps on the data set, and how long they wait for data
allreduce  sums over the ranks, from a few bytes to the size of the gradients
lr         the loss while the learning rate grows from step to step, with a suggestion and a plot

Medians after a warm-up. --np 1,2,4 starts that many processes here, one job after the other.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dist_ft import cli, files, settings_flags
from dist_ft.diagnostics import scaling
from dist_ft.distributed import threads


def main() -> None:
    args, settings = _parse()
    config = settings_flags.parse(settings)
    num_threads = threads.bind_cores()  # before MXNet is imported
    cli.require_mxnet()
    with cli.standard_output():
        files.check_output_file(args.json, "--json")
        files.check_output_file(args.plot, "--plot")
        if args.np:
            settings += ["--plot", str(args.plot)] if args.plot else []
            result, text = scaling.run_jobs(args.mode, args.np, args.steps, settings)
        else:
            from dist_ft.diagnostics import benchmark, lr_range  # imports MXNet

            result, text = benchmark.run(args.mode, config, args.steps, num_threads)
            lr_range.write_plot(result, args.plot)
        print(text)
        cli.write_json(args.json, "--json", result)


def _parse() -> tuple[argparse.Namespace, list[str]]:
    """The flags of this command, and the other ones, which are settings of a run."""
    parser = cli.command_parser("bench", __doc__)
    parser.allow_abbrev = False
    parser.add_argument("mode", choices=("loader", "step", "train", "allreduce", "lr"))
    cli.add_count(parser, "--steps", 0, "timed steps (default: 10), or those of lr (default: 100)")
    help = "numbers of processes to start on this host"
    parser.add_argument("--np", metavar="N,N", type=scaling.sizes, help=help)
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the results there")
    help = "PNG file of the plot of lr (default: lr.png)"
    parser.add_argument("--plot", metavar="FILE", type=Path, help=help)
    args, settings = parser.parse_known_args()
    args.steps = args.steps or {"lr": 100}.get(args.mode, 10)
    args.plot = (args.plot or Path("lr.png")) if args.mode == "lr" else None
    return args, settings


if __name__ == "__main__":
    main()
