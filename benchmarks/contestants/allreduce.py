"""Times allreduces of several sizes on the ranks that horovodrun started: a JSON line for each."""

from __future__ import annotations

import argparse
import json
import statistics
import time

import horovod.mxnet as hvd
import mxnet as mx


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, nargs="+", required=True, help="sizes, of float32")
    parser.add_argument("--repeats", type=int, default=20, help="of each size, after 3 to warm up")
    args = parser.parse_args()
    hvd.init()
    for num_bytes in args.bytes:
        x = mx.nd.ones(max(1, num_bytes // 4))
        times = [_once(x) for _ in range(3 + args.repeats)][3:]
        if hvd.rank() == 0:
            told = {"num_ranks": hvd.size(), "num_bytes": 4 * x.size}
            print(json.dumps({**told, "elapsed_s": statistics.median(times)}), flush=True)
    hvd.shutdown()


def _once(x: mx.nd.NDArray) -> float:
    """Seconds of one allreduce, whose result is not used: sums would soon be infinite."""
    start = time.perf_counter()
    hvd.allreduce(x, average=False, name=f"x{x.size}").wait_to_read()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
