"""Measures allreduces of 1, 2 and 4 ranks, fits their cost, and predicts 8 to 512 GPUs.

    python -m benchmarks.scaling --network-gbit 25 --gpus-a-host 8 --step-ms 167

The measured ranks are processes of this host: their fit says what Horovod and Gloo cost here. The
prediction is for the cluster that the flags describe; the defaults are the one whose efficiencies
Horovod has published, with ResNet34_v2's gradient in place of ResNet-50's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Sequence

from benchmarks import collective, machine, published
from benchmarks.child import Left, launched
from benchmarks.collective import Cluster, Cost, Sample
from benchmarks.table import markdown

RANKS = (1, 2, 4)
SIZES = tuple(4**power for power in range(5, 14))  # 1 KiB to 64 MiB
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def measure(ranks: Sequence[int], sizes: Sequence[int], repeats: int) -> list[Sample]:
    """Allreduces by real ranks, which horovodrun starts one world after another."""
    samples = []
    for num_ranks in ranks:
        words = ["--bytes", *map(str, sizes), "--repeats", str(repeats)]
        lines = launched("allreduce", words, num_ranks=num_ranks)
        samples += [Sample(**line) for line in lines]
    return samples


def fitted(samples: Sequence[Sample], cost: Cost) -> str:
    """The fit in words, and a table of what it leaves unexplained."""
    rows = [
        (
            str(s.num_ranks),
            f"{s.num_bytes:,}",
            f"{1e3 * s.elapsed_s:.3f}",
            f"{1e3 * cost.of(s.num_ranks, s.num_bytes):.3f}",
            f"{cost.of(s.num_ranks, s.num_bytes) / s.elapsed_s - 1:+.0%}",
        )
        for s in samples
    ]
    return (
        f"A call: {1e3 * cost.call_s:.2f} ms; a step of the ring: {1e6 * cost.latency_s:.0f} us;"
        f" copies: {cost.copy_bytes_s / 1e9:.2f} GB/s; ring: {cost.ring_bytes_s / 1e9:.2f} GB/s\n\n"
        + markdown(("ranks", "bytes", "measured, ms", "fitted, ms", "off by"), rows)
    )


def predicted(
    cluster: Cluster, step_s: float, num_bytes: float, num_calls: int, overlap_share: float
) -> str:
    """The efficiencies of 1 to 512 GPUs, beside the published ones.

    num_bytes: of the gradient; num_calls: allreduces that carry it, each of a part of it.
    """
    rows = []
    for num_gpus in GPUS:
        ways = [
            num_calls * way(num_gpus, num_bytes / num_calls, cluster)
            for way in (collective.flat_s, collective.hierarchical_s)
        ]
        guesses = [
            collective.efficiency(step_s, way, share)
            for share in (0.0, overlap_share)
            for way in ways
        ]
        known = [published.horovod_efficiency(num_gpus, way) for way in (False, True)]
        rows.append((str(num_gpus), *map(_percent, [*guesses, *known]), _nvidia(num_gpus)))
    head = (
        *("GPUs", "flat", "hierarchical", "flat, overlapped", "hierarchical, overlapped"),
        *("Horovod, flat", "Horovod, hierarchical", "NVIDIA, one host"),
    )
    return markdown(head, rows)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _nvidia(num_gpus: int) -> str:
    span = published.nvidia_efficiency(num_gpus)
    return f"{span[0]:.1%} to {span[1]:.1%}" if span else ""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = parser.add_argument
    flag("--gpus-a-host", type=int, default=8, help="default: 8")
    flag("--step-ms", type=float, default=167, help="of one GPU (default: 167, 64 images at 384/s)")
    flag("--gradient-mb", type=float, default=85.1, help="default: 85.1, ResNet34_v2's in float32")
    flag("--network-gbit", type=float, default=25, help="a host's network card (default: 25)")
    flag("--intra-gbs", type=float, default=40, help="GB/s of a ring within a host (default: 40)")
    flag("--latency-us", type=float, default=30, help="a step between hosts (default: 30)")
    flag("--intra-latency-us", type=float, default=5, help="a step within a host (default: 5)")
    flag("--calls", type=int, default=4, help="allreduces that carry a gradient (default: 4)")
    flag("--overlap", type=float, default=0.6, help="share of a step that hides them, 0..1")
    flag(
        "--ranks", type=int, nargs="*", default=RANKS, help="worlds to measure; none: predict only"
    )
    flag("--sizes", type=int, nargs="+", default=SIZES, help="bytes to measure")
    flag("--repeats", type=int, default=20, help="of each (default: 20)")
    flag("--json", type=Path, help="file to write the samples and the fit to")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    print(f"Machine: {machine.described()}\n")
    if args.ranks:
        try:
            samples = measure(args.ranks, args.sizes, args.repeats)
        except Left as reason:
            raise SystemExit(f"the allreduces could not be measured: {reason}") from reason
        cost = collective.fit(samples)
        print(f"{fitted(samples, cost)}\n")
        if args.json:
            told = {
                "machine": machine.described(),
                "samples": [s._asdict() for s in samples],
                "fit": cost._asdict(),
            }
            args.json.write_text(json.dumps(told, indent=1) + "\n")
    cluster = Cluster(
        args.gpus_a_host,
        args.intra_gbs * 1e9,
        args.intra_latency_us * 1e-6,
        args.network_gbit / 8 * 1e9,
        args.latency_us * 1e-6,
    )
    step_s, num_bytes = args.step_ms / 1e3, args.gradient_mb * 1e6
    print(
        f"Predicted for hosts of {args.gpus_a_host} GPUs, {args.network_gbit:g} Gbit/s between"
        f" them; steps of {args.step_ms:g} ms, gradients of {args.gradient_mb:g} MB in"
        f" {args.calls} calls; overlapped: {args.overlap:.0%} of a step hides them\n"
    )
    print(predicted(cluster, step_s, num_bytes, args.calls, args.overlap))


if __name__ == "__main__":
    main()
