"""What the ranks of one Horovod job find out together; prints a line `ok NAME` for each check."""

import sys
import traceback

from dist_ft.distributed import launcher, threads

threads.set_num_threads()

import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402
from mxnet import autograd  # noqa: E402
from mxnet.gluon import nn  # noqa: E402

from dist_ft.data import sampler  # noqa: E402
from dist_ft.distributed import startup  # noqa: E402
from dist_ft.distributed.world import World  # noqa: E402
from dist_ft.errors import CollectiveError, UserError  # noqa: E402
from dist_ft.models import batch_norm, optimizers, parameters, precision, zoo  # noqa: E402
from dist_ft.models.loss_scale import DynamicLossScale  # noqa: E402
from dist_ft.models.mxnet_internals import parameters_by_path  # noqa: E402
from dist_ft.train import train_step  # noqa: E402
from dist_ft.training import gradients  # noqa: E402

LABELS = np.array([0, 1, 2, 0, 1, 2, 2], np.int32)  # 7: no number of ranks here divides it
PIXELS = np.random.RandomState(0).randint(0, 256, (7, 8, 8, 3)).astype(np.uint8)


def a_net(seed=0):
    """A head of 3 classes on 8 x 8 pixels, the same in every process."""
    mx.random.seed(seed)
    with mx.name.NameManager():
        net = nn.HybridSequential()
        net.add(nn.Flatten(), nn.Dense(4, activation="relu"), nn.Dense(3))
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, 8, 8)))
    return net


def values(net):
    return {name: array.asnumpy() for name, array in parameters.arrays(net).items()}


def a_step_of_all(world, net, clip_norm=0.0, head_lr_mult=1.0):
    """Parameters after one step on this rank's share of the seven images."""
    for name, parameter in parameters_by_path(net).items():
        parameter.lr_mult = head_lr_mult if name.startswith("2.") else 1.0
    trainer = world.trainer(net.collect_params(), optimizers.build("sgd", 0.9, 0.01))
    trainer.set_learning_rate(0.5)
    indices, mask = sampler.rank_share(np.arange(7), world.rank, world.size)
    x, labels = mx.nd.array(PIXELS[indices], dtype="uint8"), mx.nd.array(LABELS[indices])
    whole, per_rank = zoo.with_normalization(net), 7 / world.size
    train_step(whole, trainer, (x, labels, mx.nd.array(mask)), per_rank, 0.1, clip_norm)
    return values(net)


def alone():
    """A world of this process only, for comparison."""
    return World(device="cpu", stall_timeout_s=600)


def check_sums_are_exact_and_alike(world):
    mine = [2.0**40 + world.rank, 0.5, 1e-9]
    total = world.sum(mine)
    assert total[0] == world.size * 2.0**40 + sum(range(world.size))
    assert len({tuple(other) for other in world.gather(tuple(total))}) == 1


def check_gather_keeps_the_order_of_ranks(world):
    assert world.gather(("rank", world.rank)) == [("rank", r) for r in range(world.size)]


def check_mpi_gathers_what_it_started(world):
    if not launcher.started_by_mpi():
        assert world._mpi is None
        return
    from mpi4py import MPI

    assert MPI.Query_thread() == MPI.THREAD_MULTIPLE  # mpi4py asked for it when it was imported
    assert world._mpi.Get_size() == world.size
    assert world._mpi != MPI.COMM_WORLD
    assert MPI.Comm.Compare(world._mpi, MPI.COMM_WORLD) == MPI.CONGRUENT


def check_objects_are_gathered_while_gradients_are_summed(world):
    """Neither waits for the other, whatever ends first."""
    arrays = [mx.nd.ones(1000) * (world.rank + 1) for _ in range(20)]
    for number, array in enumerate(arrays):
        summed = world._hvd.allreduce(array, average=False, name=f"gradient {number}")
        told = world.gather((number, world.rank, "x" * 1000 * world.rank))
        assert told == [(number, rank, "x" * 1000 * rank) for rank in range(world.size)]
        assert (summed.asnumpy() == sum(range(1, world.size + 1))).all()


def check_broadcast_gives_all_the_bytes_of_rank_0(world):
    net = a_net(seed=world.rank)
    world.broadcast(parameters.arrays(net))
    world.broadcast(parameters.arrays(net))  # the same names twice in a row
    for name, value in values(a_net(seed=0)).items():
        assert (values(net)[name] == value).all()


def check_an_overflow_on_one_rank_makes_all_of_them_repeat_the_step(world):
    found = []
    for scale in (DynamicLossScale(2.0**112), DynamicLossScale(2.0**9)):
        net = a_net()
        for parameter in parameters_by_path(net).values():
            parameter.set_data(parameter.data() * 1e7)  # for large gradients
        trainer = world.trainer(net.collect_params(), optimizers.build("sgd", 0.9, 0.01))
        x, labels = mx.nd.array(PIXELS, dtype="uint8"), mx.nd.array(LABELS)
        mask = mx.nd.ones(7) * (world.rank == world.size - 1)  # the others' gradients are 0
        whole, per_rank = zoo.with_normalization(net), 7 / world.size
        train_step(whole, trainer, (x, labels, mask), per_rank, loss_scale=scale)
        found.append(values(net))
        assert len(set(world.gather(scale.value))) == 1
        assert scale.value in (2.0**9, *(2.0**power for power in range(80, 112)))
    for name in found[0]:
        assert np.isfinite(found[0][name]).all()
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-5)


def check_all_ranks_choose_one_type(world):
    chosen = world.gather(precision.fastest_dtype(world))
    assert len(set(chosen)) == 1
    assert chosen[0] in ("float32", "bfloat16" if threads.has_bfloat16() else "float32")


def check_a_step_of_all_ranks_is_that_of_one(world):
    for clip_norm in (0.0, 0.3):
        ours = a_step_of_all(world, a_net(), clip_norm)
        theirs = a_step_of_all(alone(), a_net(), clip_norm)
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


def check_all_ranks_hold_the_same_bytes_after_a_step(world):
    everyones = world.gather({k: v.tobytes() for k, v in a_step_of_all(world, a_net()).items()})
    assert all(other == everyones[0] for other in everyones)


def check_the_head_moves_ten_times_as_far(world):
    start = values(a_net())
    plain, tenfold = (a_step_of_all(world, a_net(), 0.0, mult) for mult in (1.0, 10.0))
    for name in start:
        times = 10.0 if name.startswith("2.") else 1.0
        moved, far = plain[name] - start[name], tenfold[name] - start[name]
        np.testing.assert_allclose(far, times * moved, rtol=1e-4, atol=1e-5)


def check_clipping_bounds_the_norm_of_the_mean_gradient(world):
    net = a_net()
    trainer = world.trainer(net.collect_params(), optimizers.build("sgd", 0.0, 0.0))
    with autograd.record():
        loss = 1000 * net(mx.nd.ones((2, 3, 8, 8)) * (1 + world.rank)).sum()
    loss.backward()
    trainer.allreduce_grads()
    gradients.clip(trainer, 2, clip_norm=0.25)
    scale = trainer._scale / 2
    norm = sum((p.grad() * scale).norm().asscalar() ** 2 for p in trainer._params) ** 0.5
    assert abs(norm - 0.25) < 1e-4


def check_pooled_statistics_are_those_of_all_batches(world):
    with mx.name.NameManager():
        net = nn.HybridSequential()
        net.add(nn.BatchNorm(momentum=0.0))  # the running statistics are the last batch's
    net.initialize()
    batches = np.random.RandomState(1).normal(2, 3, (world.size, 16, 2, 4, 4)).astype(np.float32)
    batches += np.arange(world.size).reshape(-1, 1, 1, 1, 1)  # the ranks' means are far apart
    with autograd.record():
        out = net(mx.nd.array(batches[world.rank]))
    out.backward()  # MXNet updates the running statistics on the way back
    batch_norm.pool_statistics(net, world)
    pixels = batches.transpose(2, 0, 1, 3, 4).reshape(2, -1)
    np.testing.assert_allclose(net[0].running_mean.data().asnumpy(), pixels.mean(1), rtol=1e-4)
    np.testing.assert_allclose(net[0].running_var.data().asnumpy(), pixels.var(1), rtol=1e-4)


def check_an_error_on_one_rank_is_raised_on_all(world):
    told = ""
    try:
        with world.raise_on_all_ranks():
            if world.rank == world.size - 1:
                raise UserError("the last rank's disk is full")
    except CollectiveError as error:
        told = str(error)
    assert told == "the last rank's disk is full"


def check_the_same_error_on_all_ranks_is_told_once(world):
    try:
        with world.raise_on_all_ranks():
            raise UserError("no such folder")
    except CollectiveError as error:
        assert str(error) == "no such folder"
    else:
        raise AssertionError("nothing was raised")


def main() -> None:
    with startup.start(device="cpu", stall_timeout_s=60) as world:
        for name, check in list(globals().items()):
            if name.startswith("check_"):
                check(world)
                if world.is_main:
                    print("ok", name, flush=True)


if __name__ == "__main__":
    try:
        main()
    except AssertionError:
        traceback.print_exc()
        sys.exit(1)
