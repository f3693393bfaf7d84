"""dist_ft: the modes of `python -m dist_ft.bench`. Further flags are those of dist_ft.train."""

from __future__ import annotations

from benchmarks.contestants import clock
from dist_ft import settings_flags
from dist_ft.distributed import threads


def main() -> None:
    args = clock.parse(__doc__, ("train", "step", "loader"))
    num_threads = threads.bind_cores()
    from dist_ft.diagnostics import benchmark

    flags = ["--data", args.data, "--weights", "none", "--batch-size", str(args.batch_size)]
    config = settings_flags.parse([*flags, "--dtype", "float32", *args.rest])
    result, _ = benchmark.run(args.part, config, args.steps, num_threads)
    clock.print_result(result["images_per_s"], result["peak_mb"])


if __name__ == "__main__":
    main()
