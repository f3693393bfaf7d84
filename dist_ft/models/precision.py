"""The type that networks compute in: float32, or a 16-bit type where that is faster.

Parameters, gradients and updates are float32 in each case, as in Micikevicius et al. 2018.
"""

from __future__ import annotations

import time

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.contrib import amp

from dist_ft.distributed import threads
from dist_ft.distributed.world import World
from dist_ft.errors import UserError

MAX_TIME_SHARE = 0.9  # of float32's time: a smaller gain is not worth the lost digits
NUM_REPEATS = 6
HARDWARE = {"bfloat16": "a CPU with AVX512-BF16 or AMX", "float16": "a GPU"}

_active_16_bit_type = ""  # what amp.init was called with in this process


def use_dtype(dtype: str, ctx: mx.Context) -> None:
    """Makes this process's networks compute in `dtype` wherever MXNet's AMP considers it safe.

    Must be called before a network is built. MXNet cannot leave a 16-bit type again. Raises
    UserError if the device cannot compute in the type, or if the process uses another 16-bit type.
    """
    global _active_16_bit_type
    if _active_16_bit_type not in ("", dtype):
        raise UserError(
            f"--dtype {dtype}: this process already computes in {_active_16_bit_type}, which MXNet"
            " cannot undo; start a new process"
        )
    if dtype in ("float32", _active_16_bit_type):
        return
    if not supports(ctx, dtype) and not _emulates(ctx, dtype):
        raise UserError(
            f"--dtype {dtype}: needs {HARDWARE[dtype]}, which {ctx} is not; use --dtype float32"
        )
    amp.init(target_dtype=dtype)
    _active_16_bit_type = dtype


def supports(ctx: mx.Context, dtype: str) -> bool:
    """True if the device has instructions for this type."""
    return dtype in ("float32", _16_bit_type(ctx))


def fastest_dtype(world: World) -> str:
    """The type that is fastest on all ranks, which all call this; measures for about a second."""
    vote, half = "float32", _16_bit_type(world.ctx)
    if half and _step_s(half, world.ctx) < MAX_TIME_SHARE * _step_s("float32", world.ctx):
        vote = half
    votes = set(world.gather(vote))
    return vote if len(votes) == 1 else "float32"


def _16_bit_type(ctx: mx.Context) -> str | None:
    """The 16-bit type that a device supports."""
    if ctx.device_type == "gpu":
        return "float16"
    return "bfloat16" if threads.has_bfloat16() else None


def _emulates(ctx: mx.Context, dtype: str) -> bool:
    return ctx.device_type == "cpu" and dtype == "bfloat16" and threads.emulates_bfloat16()


def _step_s(dtype: str, ctx: mx.Context) -> float:
    """Median seconds of a 3 x 3 convolution of ResNet34's third stage, forward and backward."""
    # amp names bfloat16 by this structured type
    numpy_type = np.dtype([("bfloat16", np.uint16)] if dtype == "bfloat16" else dtype)
    x = mx.nd.ones((8, 128, 28, 28), ctx=ctx)
    weight = mx.nd.ones((128, 128, 3, 3), ctx=ctx)
    weight.attach_grad()
    times = []
    for _ in range(NUM_REPEATS):
        start = time.perf_counter()
        with autograd.record():
            inputs = mx.nd.amp_cast(x, dtype=numpy_type), mx.nd.amp_cast(weight, dtype=numpy_type)
            y = mx.nd.Convolution(*inputs, kernel=(3, 3), pad=(1, 1), num_filter=128, no_bias=True)
            y = mx.nd.amp_cast(y, dtype="float32")
        y.backward()
        weight.grad.wait_to_read()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))  # the first repeat compiles
