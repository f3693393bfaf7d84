"""dist_ft: evaluations of the test images. Further flags are those of dist_ft.train."""

from __future__ import annotations

from benchmarks.contestants import clock
from dist_ft import settings_flags
from dist_ft.distributed import threads


def main() -> None:
    args = clock.parse(__doc__, ("evaluate",))
    num_threads = threads.bind_cores()
    from dist_ft.data.image_folder import scan
    from dist_ft.data.rank_batches import RankBatches
    from dist_ft.data.transforms import InputSpec
    from dist_ft.distributed import startup
    from dist_ft.evaluation.evaluator import evaluate
    from dist_ft.models import precision, zoo

    config = settings_flags.parse(["--data", args.data, "--dtype", "float32", *args.rest])
    dataset = scan(config.data)
    num_classes = len(dataset.classes)
    spec = InputSpec(config.image_size, config.resize_px, config.keep_ratio)
    with startup.start(config.device) as world:
        precision.use_dtype(config.dtype, world.ctx)
        core = zoo.build(config.model, num_classes, config.image_size, config.seed)
        core.collect_params().reset_ctx(world.ctx)
        net = zoo.with_normalization(core)
        batches = RankBatches(
            dataset, spec, config.seed, world.rank, world.size, num_threads, config.prefetch_mb
        )
        watch = clock.Clock(args.warmup, args.steps)
        is_over = False
        while not is_over:
            evaluate(net, batches.test(), num_classes, world)  # waits for all results
            is_over = watch.step(len(dataset.test))
        batches.close()


if __name__ == "__main__":
    main()
