"""Selects the device that a rank computes on: its own GPU if MXNet sees one, otherwise the CPU."""

from __future__ import annotations

import os
import re
import socket
from contextlib import contextmanager, suppress
from typing import Iterator

import mxnet as mx

from dist_ft.errors import UserError

# In MXNet's messages for GPUs (cudaMalloc, cuDNN, cuBLAS) and for CPUs.
OUT_OF_MEMORY = re.compile(r"out of memory|ALLOC_FAILED|[Ff]ailed to allocate|bad_alloc")


def count_gpus(device: str) -> int:
    """The number of this host's GPUs that its ranks may use; `device` is --device."""
    return 0 if device == "cpu" else mx.context.num_gpus()


def select(device: str, local_rank: int, local_size: int) -> mx.Context:
    """The device of one of this host's ranks, tested. Raises UserError if it is unusable."""
    # MXNet would warn in every process that it was built with another minor version of cuDNN.
    os.environ.setdefault("MXNET_CUDNN_LIB_CHECKING", "0")
    ctx = assign(device, count_gpus(device), local_rank, local_size)
    if ctx.device_type == "gpu":
        _check_computes(ctx)
    return ctx


def assign(device: str, num_gpus: int, local_rank: int, local_size: int) -> mx.Context:
    """The device of one of a host's ranks, each of which sees `num_gpus` GPUs.

    Raises UserError if there are fewer GPUs than ranks, or none and `device` is gpu.
    """
    host = socket.gethostname()
    if num_gpus == 0:
        if device == "gpu":
            raise UserError(
                f"--device gpu: MXNet {mx.__version__} sees no GPU on {host}; {gpu_remedy()}, or"
                " omit --device"
            )
        return mx.cpu()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if num_gpus == 1 and visible is not None and "," not in visible:
        return mx.gpu(0)  # the launcher has given each rank its own GPU
    if num_gpus < local_size:
        raise UserError(
            f"{local_size} ranks on {host}, which has {num_gpus} GPUs; start at most one rank per"
            " GPU, or pass --device cpu"
        )
    return mx.gpu(local_rank)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turns MXNet's errors for a lack of memory during training into a UserError with a remedy."""
    try:
        yield
    except mx.MXNetError as error:
        reason = next((line for line in str(error).splitlines() if OUT_OF_MEMORY.search(line)), "")
        if not reason:
            raise
        raise UserError(
            f"the device has too little memory ({reason.strip()}): pass --micro-batch with about"
            " half of the images per step and rank, or less; the updates remain the same (with"
            " --bn train, nearly)"
        ) from error


def gpu_remedy() -> str:
    """What may help if MXNet sees no GPU."""
    if built_for_cuda():
        return "check that nvidia-smi shows one (in a container: docker run --gpus all)"
    return "install a CUDA build of MXNet (mxnet-cu112)"


def built_for_cuda() -> bool:
    """True if the installed MXNet is a CUDA build."""
    return mx.runtime.Features().is_enabled("CUDA")


def _check_computes(ctx: mx.Context) -> None:
    """Raises UserError if the GPU is visible but cannot run MXNet's kernels.

    MXNet's wheels contain machine code for some GPU generations, and no PTX from which the driver
    could compile code for later ones, such as Hopper.
    """
    try:
        mx.nd.ones((1,), ctx=ctx).asscalar()
    except mx.MXNetError as error:
        with suppress(mx.MXNetError):
            mx.nd.waitall()  # else the error is raised again when the process ends
        reason = str(error).strip().splitlines()[-1].rsplit("ErrStr:")[-1]
        raise UserError(
            f"{ctx} of {socket.gethostname()} cannot run MXNet {mx.__version__}: {reason}. Its"
            " wheels for CUDA 11 contain code for compute capability 5.0 to 8.9 only; pass"
            " --device cpu"
        ) from None
