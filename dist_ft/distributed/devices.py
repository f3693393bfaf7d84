"""Which device a rank computes on: a GPU of its own where MXNet sees some, or else the CPU."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

import mxnet as mx

from dist_ft.errors import UserError


def count_gpus(device: str) -> int:
    """The GPUs that this host's ranks may compute on; `device` is --device."""
    return 0 if device == "cpu" else mx.context.num_gpus()


def choose(device: str, local_rank: int, local_size: int) -> mx.Context:
    """The device of one of this host's ranks; raises UserError where it cannot compute."""
    # Any cuDNN of its major version does, and each process would say that it has another.
    os.environ.setdefault("MXNET_CUDNN_LIB_CHECKING", "0")
    ctx = place(device, count_gpus(device), local_rank, local_size)
    if ctx.device_type == "gpu":
        _try(ctx)
    return ctx


def place(device: str, num_gpus: int, local_rank: int, local_size: int) -> mx.Context:
    """The device of one of a host's ranks, of which `num_gpus` are seen."""
    if num_gpus == 0:
        if device == "gpu":
            raise UserError(
                f"--device gpu: MXNet {mx.__version__} sees no GPU on {socket.gethostname()};"
                f" {remedy()}, or leave --device out"
            )
        return mx.cpu()
    if num_gpus == 1 and "," not in os.environ.get("CUDA_VISIBLE_DEVICES", ","):
        return mx.gpu(0)  # the launcher shows each rank only its own
    if num_gpus < local_size:
        raise UserError(
            f"{local_size} ranks on {socket.gethostname()}, which has {num_gpus} GPUs: start at"
            " most one rank for each, or pass --device cpu"
        )
    return mx.gpu(local_rank)


def remedy() -> str:
    """What may give MXNet a GPU that it does not see."""
    if built_for_cuda():
        return "see that nvidia-smi shows one here (in a container: docker run --gpus all)"
    return "install a CUDA build of it (mxnet-cu112)"


def built_for_cuda() -> bool:
    return mx.runtime.Features().is_enabled("CUDA")


def _try(ctx: mx.Context) -> None:
    """A wheel of MXNet holds machine code for some generations of GPUs and no PTX, from which the
    driver could make that of a later one: a Hopper is seen, and computes nothing."""
    try:
        mx.nd.ones((1,), ctx=ctx).asscalar()
    except mx.MXNetError as error:
        with suppress(mx.MXNetError):
            mx.nd.waitall()  # or it is told a second time as the process ends
        reason = str(error).strip().splitlines()[-1].rsplit("ErrStr:")[-1]
        raise UserError(
            f"{ctx} of {socket.gethostname()} does not compute with MXNet {mx.__version__}:"
            f" {reason}. Its wheels for CUDA 11 hold code for compute capability 5.0 to 8.9 only;"
            " --device cpu does without"
        ) from None
