"""`python -m dist_ft.train`: fine-tunes a network. `fit` is the training loop.

Modules that import MXNet are imported inside the functions: `--help` does not need them, and the
number of threads must be set before (`threads.bind_cores`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dist_ft import cli, settings_flags
from dist_ft.distributed import threads

if TYPE_CHECKING:
    import mxnet as mx

    from dist_ft.config import Config
    from dist_ft.distributed.world import World
    from dist_ft.models.loss_scale import FixedLossScale
    from dist_ft.training.gradients import DeviceBatch
    from dist_ft.training.run import Run


def fit(config: Config, world: World) -> Run:
    """Trains and evaluates for all epochs, or for those that a resumed run has left.

    world: from `startup.start`. Returns the Run; its `net` is the trained network. Raises
    CollectiveError on all ranks of a job if the run cannot continue, and UserError in one process.
    """
    from dist_ft.distributed.devices import memory_errors
    from dist_ft.training.setup import build_run

    while True:  # an elastic world that has lost or gained ranks starts again from the last commit
        with world.session.survive_failures(), build_run(config, world) as run, memory_errors():
            train_epochs(run, config.clip_norm, config.micro_batch)
            run.finish()
            return run


def train_epochs(run: Run, clip_norm: float, micro_batch: int) -> None:
    """Makes the steps that the run has left, and evaluates at the end of each epoch."""
    from dist_ft.training.stop_signals import stop_requests

    with stop_requests() as stop:
        for epoch, steps in run.epochs():
            for step, batch in zip(steps, run.train_batches(epoch, steps)):
                weight_sum = run.begin_step(step, batch, stop)
                run.trainer.set_learning_rate(run.learning_rate.at(step))
                sums = train_step(
                    run.trained_net,
                    run.trainer,
                    batch.on(run.world.ctx),
                    weight_sum / run.world.size,
                    clip_norm,
                    run.loss_scale,
                    micro_batch,
                )
                run.end_step(step, sums, batch.num_images)
            run.end_epoch(epoch)


def train_step(
    net: mx.gluon.HybridBlock,
    trainer: mx.gluon.Trainer,
    batch: DeviceBatch,
    weight_per_rank: float,
    clip_norm: float = 0.0,
    loss_scale: FixedLossScale | None = None,
    micro_batch: int = 0,
) -> mx.nd.NDArray:
    """One update by the mean gradient of the step's images on all ranks, weighted by their targets.

    batch: (x, labels, targets) on the device; weight_per_rank: the sum of the images' weights on
    all ranks divided by the number of ranks, because the trainer averages over the ranks;
    micro_batch: see gradients.backward. Returns, without waiting for the device, (2,): the sum of
    this rank's losses and its number of correct predictions.
    """
    from dist_ft.models.loss_scale import UNSCALED
    from dist_ft.training import gradients

    loss_scale = loss_scale or UNSCALED
    while True:
        divisor = weight_per_rank * loss_scale.value
        sums = gradients.backward(net, batch, loss_scale.value, micro_batch)
        trainer.allreduce_grads()
        if loss_scale.update(gradients.of_trainer(trainer)):
            break  # else they have overflowed, and the scale was halved: repeat the step
    if clip_norm:
        gradients.clip(trainer, divisor, clip_norm)
    trainer.update(divisor)
    return sums


def main() -> None:
    config = settings_flags.parse()
    threads.bind_cores()  # before MXNet is imported, which reads the number of threads
    cli.require_mxnet()

    from dist_ft.distributed import horovod_settings, startup
    from dist_ft.distributed.elastic_world import ElasticWorld
    from dist_ft.distributed.horovod_world import HorovodWorld
    from dist_ft.training import preview

    job_world = ElasticWorld if config.elastic else HorovodWorld
    settings = horovod_settings.from_flags(config)
    with cli.standard_output(), startup.start(
        config.device, config.stall_timeout, settings, job_world
    ) as world:
        if config.preview:
            preview.write(config, world)
        else:
            fit(config, world)


if __name__ == "__main__":
    main()
