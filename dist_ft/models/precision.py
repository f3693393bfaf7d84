"""In which type a network's sums are made: float32, or half of its bits where that is quicker.

Parameters, gradients and updates stay float32 in each case, as in Micikevicius et al. 2018.
"""

from __future__ import annotations

import time
from typing import Any, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.contrib import amp

from dist_ft.distributed import launcher
from dist_ft.errors import UserError

WORTH_IT = 0.9  # of float32's time, for 'auto' to leave float32


_used: set[str] = set()  # what this process's networks compute in


def use_dtype(dtype: str, ctx: mx.Context) -> None:
    """Has this process's networks compute in `dtype` wherever that is safe.

    To be called before a network is built; MXNet knows no way back from 16 bits. Raises UserError
    where the device does not have it, and where the process computes in another such type already.
    """
    if _used - {dtype, "float32"}:
        (other,) = _used - {"float32"}
        raise UserError(
            f"--dtype {dtype}: this process computes in {other} already, and MXNet cannot change"
            " that: start another one"
        )
    if dtype == "float32" or dtype in _used:
        return
    if not has(dtype, ctx):
        takes = {"bfloat16": "a CPU with AVX512-BF16 or AMX", "float16": "a GPU"}[dtype]
        raise UserError(f"--dtype {dtype}: takes {takes}, not {ctx} here")
    amp.init(target_dtype=dtype)
    _used.add(dtype)


def has(dtype: str, ctx: mx.Context) -> bool:
    """Whether a device computes in it."""
    return dtype in ("float32", _half(ctx))


def choose(world: Any) -> str:
    """The quickest type on all ranks, by a measurement of about a second."""
    half = _half(world.ctx)
    pays = half is not None and _step_s(half, world.ctx) < WORTH_IT * _step_s("float32", world.ctx)
    return half if all(word == (half, True) for word in world.gather((half, pays))) else "float32"


def _half(ctx: mx.Context) -> str | None:
    """The type of 16 bits that a device computes in, if any."""
    if ctx.device_type == "gpu":
        return "float16"
    return "bfloat16" if launcher.has_bfloat16() else None


def _step_s(dtype: str, ctx: mx.Context) -> float:
    """Seconds for a 3 x 3 convolution of ResNet34's third stage, forwards and back; the median."""
    x, weight = (mx.nd.ones(shape, ctx=ctx) for shape in ((8, 128, 28, 28), (128, 128, 3, 3)))
    weight.attach_grad()
    times = []
    for _ in range(6):
        start = time.perf_counter()
        with autograd.record():
            halves = (mx.nd.amp_cast(array, dtype=_numpys(dtype)) for array in (x, weight))
            y = mx.nd.Convolution(*halves, kernel=(3, 3), pad=(1, 1), num_filter=128, no_bias=True)
            y = mx.nd.amp_cast(y, dtype="float32")
        y.backward()
        weight.grad.wait_to_read()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))  # the first one compiles


def _numpys(dtype: str) -> np.dtype:
    return np.dtype([("bfloat16", np.uint16)] if dtype == "bfloat16" else dtype)  # as amp has it


class Unscaled:
    """The loss scale of types with float32's range: none."""

    value, good_steps = 1.0, 0

    def fits(self, gradients: Sequence[mx.nd.NDArray]) -> bool:
        return True

    def as_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {}


UNSCALED = Unscaled()


class LossScale(Unscaled):
    """What a loss is multiplied by so that its gradients do not vanish in float16.

    It is halved where they overflow and the step is made again, so that no step is left out; after
    GROWS_AFTER good steps it is doubled. Ranks agree without a word: each looks at the gradients
    summed over all of them.
    """

    GROWS_AFTER = 2000
    LARGEST = 2.0**24

    def __init__(self, value: float = 2.0**16, good_steps: int = 0):
        self.value, self.good_steps = value, good_steps

    def fits(self, gradients: Sequence[mx.nd.NDArray]) -> bool:
        """Whether they are finite, or no smaller scale would help; a sync point with the device."""
        finite = mx.nd.multi_all_finite(*gradients, num_arrays=len(gradients)).asscalar()
        if not finite and self.value > 1:
            self.value, self.good_steps = self.value / 2, 0
            return False
        self.good_steps += 1
        if self.good_steps == self.GROWS_AFTER:
            self.value, self.good_steps = min(2 * self.value, self.LARGEST), 0
        return True

    def as_dict(self) -> dict[str, Any]:
        return {"loss_scale": [self.value, self.good_steps]}
