"""Fine-tunes a network: `fit`, and `python -m dist_ft.train`."""

from dist_ft import cli
from dist_ft.distributed import launcher

# Both before MXNet is loaded: `--help` then answers at once, and MXNet reads its threads.
config_of_main = cli.parse() if __name__ == "__main__" else None
launcher.take_cores()

import mxnet as mx  # noqa: E402
from mxnet import autograd  # noqa: E402

from dist_ft.config import Config  # noqa: E402
from dist_ft.distributed import horovod_settings, startup  # noqa: E402
from dist_ft.distributed.elastic import ElasticWorld  # noqa: E402
from dist_ft.distributed.startup import HorovodWorld  # noqa: E402
from dist_ft.models.mxnet_internals import gradient_scale, trainer_parameters  # noqa: E402
from dist_ft.models.precision import UNSCALED, Unscaled  # noqa: E402
from dist_ft.training.run import Run  # noqa: E402
from dist_ft.training.step_sync import stop_requests  # noqa: E402


def fit(config: Config, world: startup.World) -> Run:
    """Trains and tests for all epochs, or for what a resumed run has left of them.

    world: what `runtime.start` gives. Returns the Run, whose `net` is the trained network. Raises
    errors.CollectiveError on all ranks where the run cannot go on.
    """
    while True:  # an elastic world comes out with other ranks where some were lost or added
        with world.survive_failures(), Run(config, world) as run:
            make_steps(run)
            return run


def make_steps(run: Run) -> None:
    """Makes the steps and the tests that a run has left."""
    config, world = run.config, run.world
    with stop_requests() as stop:
        for epoch, steps in run.plan.epochs_from(run.step):
            if run.is_over:
                break
            for step, batch in zip(steps, run.train_batches(epoch, steps)):
                num_images = run.exchange(step, batch, stop)
                run.trainer.set_learning_rate(run.rate.at(step))
                sums = train_step(
                    run.tail,
                    run.trainer,
                    *batch.on(world.ctx),
                    num_images / world.size,
                    config.label_smoothing,
                    config.clip_norm,
                    run.loss_scale,
                )
                run.tally.push(sums, batch.num_images, step)
                run.after(step)
            run.end_epoch(epoch)
    run.say_farewell()


def train_step(
    net: mx.gluon.HybridBlock,
    trainer: mx.gluon.Trainer,
    x: mx.nd.NDArray,
    labels: mx.nd.NDArray,
    mask: mx.nd.NDArray,
    images_a_rank: float,
    label_smoothing: float = 0.0,
    clip_norm: float = 0.0,
    scale: Unscaled = UNSCALED,
) -> mx.nd.NDArray:
    """One update by the mean gradient of the step's real images on all ranks.

    x: (n, H, W, 3) uint8; labels, mask: (n,); images_a_rank: the step's images, over all ranks,
    divided by the number of ranks, since the trainer averages over the ranks. Returns, without
    waiting for it, (2,): the sum of this rank's losses, and how many images it got right.
    """
    fits = False
    while not fits:
        images = images_a_rank * scale.value
        with autograd.record():
            logits = net(x).astype("float32")
            losses = cross_entropy(logits, labels, label_smoothing) * mask
            scaled = losses * scale.value
        scaled.backward()
        trainer.allreduce_grads()
        fits = scale.fits(gradients_of(trainer))
    if clip_norm:
        clip_gradients(trainer, images, clip_norm)
    trainer.update(images)
    correct = (logits.argmax(axis=1) == labels.astype("float32")) * mask
    return mx.nd.stack(losses.sum(), correct.sum())


def cross_entropy(
    logits: mx.nd.NDArray, labels: mx.nd.NDArray, label_smoothing: float = 0.0
) -> mx.nd.NDArray:
    """(n,): -log p(label), of labels smoothed towards the uniform distribution (Szegedy et al.
    2016, section 7)."""
    log_p = logits.log_softmax()
    losses = -log_p.pick(labels)
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * log_p.mean(axis=1)
    return losses


def clip_gradients(trainer: mx.gluon.Trainer, images_a_rank: float, clip_norm: float) -> None:
    """Scales the reduced gradients so that the step's mean gradient has at most this norm.

    What is reduced is a sum over images, and over ranks unless NCCL averages: the trainer's
    gradient scale is 1 / ranks in the one case and 1 in the other, so that its product with
    1 / images_a_rank makes it the mean on both.
    """
    limit = clip_norm * images_a_rank / gradient_scale(trainer)
    mx.gluon.utils.clip_global_norm(gradients_of(trainer), limit, check_isfinite=False)


def gradients_of(trainer: mx.gluon.Trainer) -> list[mx.nd.NDArray]:
    return [p.grad() for p in trainer_parameters(trainer) if p.grad_req != "null"]


def main(config: Config) -> None:
    many = ElasticWorld if config.elastic else HorovodWorld
    timeout_s, tuned = config.stall_timeout, horovod_settings.of(config)
    with cli.standard_output(), startup.start(config.device, timeout_s, tuned, many) as world:
        fit(config, world)


if __name__ == "__main__":
    main(config_of_main)
