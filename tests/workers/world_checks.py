"""Properties of a world that its ranks check together, run by tests/workers/world.py.

Each `check_NAME` is called on all ranks with their world, and raises AssertionError if it fails.
"""

from __future__ import annotations

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import nn

from dist_ft.data import sampler
from dist_ft.distributed import launcher, threads
from dist_ft.distributed.world import World
from dist_ft.errors import CollectiveError, UserError
from dist_ft.models import batch_norm, optimizers, parameters, precision, zoo
from dist_ft.models.loss_scale import DynamicLossScale
from dist_ft.models.mxnet_internals import parameters_by_path
from dist_ft.train import train_step
from dist_ft.training import gradients
from tests.networks import device_batch

NUM_IMAGES = 7  # not divisible by 2 or 3 ranks
LABELS = np.array([0, 1, 2, 0, 1, 2, 2], np.int32)
PIXELS = np.random.RandomState(0).randint(0, 256, (NUM_IMAGES, 8, 8, 3)).astype(np.uint8)


def small_net(seed=0):
    """A network for 3 classes and 8 x 8 px; the same seed gives the same values on all ranks."""
    mx.random.seed(seed)
    with mx.name.NameManager():
        net = nn.HybridSequential()
        net.add(nn.Flatten(), nn.Dense(4, activation="relu"), nn.Dense(3))
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, 8, 8)))
    return net


def values(net):
    return {name: array.asnumpy() for name, array in parameters.arrays(net).items()}


def train_one_step(world, net, clip_norm=0.0, head_lr_mult=1.0):
    """The parameters after one step of all ranks, each on its share of the images."""
    for name, parameter in parameters_by_path(net).items():
        parameter.lr_mult = head_lr_mult if name.startswith("2.") else 1.0
    trainer = world.trainer(net.collect_params(), optimizers.build("sgd", 0.9, 0.01))
    trainer.set_learning_rate(0.5)
    indices, mask = sampler.rank_share(np.arange(NUM_IMAGES), world.rank, world.size)
    batch = device_batch(PIXELS[indices], LABELS[indices], mask, 0.1)
    on_pixels, per_rank = zoo.with_normalization(net), NUM_IMAGES / world.size
    train_step(on_pixels, trainer, batch, per_rank, clip_norm)
    return values(net)


def single_process():
    """A world of one process, for comparison."""
    return World(device="cpu", stall_timeout_s=600)


def check_sums_are_exact_and_equal_on_all_ranks(world):
    total = world.sum([2.0**40 + world.rank, 0.5, 1e-9])
    assert total[0] == world.size * 2.0**40 + sum(range(world.size))
    assert len({tuple(other) for other in world.gather(tuple(total))}) == 1


def check_gather_returns_values_in_rank_order(world):
    assert world.gather(("rank", world.rank)) == [("rank", r) for r in range(world.size)]


def check_ranks_started_by_mpi_have_their_own_communicator(world):
    if not launcher.started_by_mpi():
        assert world._mpi is None
        return
    from mpi4py import MPI

    assert MPI.Query_thread() == MPI.THREAD_MULTIPLE  # requested by mpi4py on import
    assert world._mpi.Get_size() == world.size
    assert world._mpi != MPI.COMM_WORLD
    assert MPI.Comm.Compare(world._mpi, MPI.COMM_WORLD) == MPI.CONGRUENT


def check_gather_works_during_an_allreduce(world):
    arrays = [mx.nd.ones(1000) * (world.rank + 1) for _ in range(20)]
    for number, array in enumerate(arrays):
        summed = world._hvd.allreduce(array, average=False, name=f"gradient {number}")
        values_ = world.gather((number, world.rank, "x" * 1000 * world.rank))
        assert values_ == [(number, rank, "x" * 1000 * rank) for rank in range(world.size)]
        assert (summed.asnumpy() == sum(range(1, world.size + 1))).all()


def check_broadcast_copies_the_arrays_of_rank_0(world):
    net = small_net(seed=world.rank)
    world.broadcast(parameters.arrays(net))
    world.broadcast(parameters.arrays(net))  # names may be reused at once
    for name, value in values(small_net(seed=0)).items():
        assert (values(net)[name] == value).all()


def check_an_overflow_on_one_rank_repeats_the_step_on_all(world):
    results = []
    for scale in (DynamicLossScale(2.0**112), DynamicLossScale(2.0**9)):
        net = small_net()
        for parameter in parameters_by_path(net).values():
            parameter.set_data(parameter.data() * 1e7)  # makes large gradients
        trainer = world.trainer(net.collect_params(), optimizers.build("sgd", 0.9, 0.01))
        mask = np.ones(NUM_IMAGES) * (world.rank == world.size - 1)  # the others' gradients are 0
        batch = device_batch(PIXELS, LABELS, mask)
        on_pixels, per_rank = zoo.with_normalization(net), NUM_IMAGES / world.size
        train_step(on_pixels, trainer, batch, per_rank, loss_scale=scale)
        results.append(values(net))
        assert len(set(world.gather(scale.value))) == 1
        assert scale.value in (2.0**9, *(2.0**power for power in range(80, 112)))
    for name in results[0]:
        assert np.isfinite(results[0][name]).all()
        np.testing.assert_allclose(results[0][name], results[1][name], rtol=1e-5)


def check_all_ranks_choose_the_same_dtype(world):
    chosen = world.gather(precision.fastest_dtype(world))
    assert len(set(chosen)) == 1
    assert chosen[0] in ("float32", "bfloat16" if threads.has_bfloat16() else "float32")


def check_a_step_of_all_ranks_equals_that_of_a_single_process(world):
    for clip_norm in (0.0, 0.3):
        many = train_one_step(world, small_net(), clip_norm)
        one = train_one_step(single_process(), small_net(), clip_norm)
        for name in one:
            np.testing.assert_allclose(many[name], one[name], rtol=1e-5, atol=1e-6)


def check_parameters_are_identical_on_all_ranks_after_a_step(world):
    gathered = world.gather({k: v.tobytes() for k, v in train_one_step(world, small_net()).items()})
    assert all(other == gathered[0] for other in gathered)


def check_lr_mult_multiplies_the_update(world):
    start = values(small_net())
    plain, tenfold = (train_one_step(world, small_net(), 0.0, mult) for mult in (1.0, 10.0))
    for name in start:
        factor = 10.0 if name.startswith("2.") else 1.0
        update, tenfold_update = plain[name] - start[name], tenfold[name] - start[name]
        np.testing.assert_allclose(tenfold_update, factor * update, rtol=1e-4, atol=1e-5)


def check_clipping_bounds_the_norm_of_the_mean_gradient(world):
    net = small_net()
    trainer = world.trainer(net.collect_params(), optimizers.build("sgd", 0.0, 0.0))
    with autograd.record():
        loss = 1000 * net(mx.nd.ones((2, 3, 8, 8)) * (1 + world.rank)).sum()
    loss.backward()
    trainer.allreduce_grads()
    gradients.clip(trainer, 2, clip_norm=0.25)
    scale = trainer._scale / 2
    norm = sum((p.grad() * scale).norm().asscalar() ** 2 for p in trainer._params) ** 0.5
    assert abs(norm - 0.25) < 1e-4


def check_pooled_statistics_equal_those_of_the_global_batch(world):
    with mx.name.NameManager():
        net = nn.HybridSequential()
        net.add(nn.BatchNorm(momentum=0.0))  # running statistics = the last batch's
    net.initialize()
    batches = np.random.RandomState(1).normal(2, 3, (world.size, 16, 2, 4, 4)).astype(np.float32)
    batches += np.arange(world.size).reshape(-1, 1, 1, 1, 1)  # different means on each rank
    with autograd.record():
        out = net(mx.nd.array(batches[world.rank]))
    out.backward()  # updates the running statistics
    batch_norm.pool_statistics(batch_norm.statistics(net), world)
    pixels = batches.transpose(2, 0, 1, 3, 4).reshape(2, -1)
    np.testing.assert_allclose(net[0].running_mean.data().asnumpy(), pixels.mean(1), rtol=1e-4)
    np.testing.assert_allclose(net[0].running_var.data().asnumpy(), pixels.var(1), rtol=1e-4)


def check_an_error_on_one_rank_is_raised_on_all(world):
    message = ""
    try:
        with world.raise_on_all_ranks():
            if world.rank == world.size - 1:
                raise UserError("the last rank's disk is full")
    except CollectiveError as error:
        message = str(error)
    assert message == "the last rank's disk is full"


def check_the_same_error_on_all_ranks_is_reported_once(world):
    try:
        with world.raise_on_all_ranks():
            raise UserError("no such folder")
    except CollectiveError as error:
        assert str(error) == "no such folder"
    else:
        raise AssertionError("CollectiveError was not raised")
