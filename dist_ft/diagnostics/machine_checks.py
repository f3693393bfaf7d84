"""Checks of this machine and its installation: what a run needs before it reads any data."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import mxnet as mx
import numpy as np

from dist_ft.diagnostics.finding import FAIL, NOTE, OK, Finding
from dist_ft.distributed import devices, horovod_world, threads
from dist_ft.distributed.world import World

MIN_DISK_MB = 500  # three checkpoints of a ResNet34, and the temporary file of a fourth
MIN_SHM_MB = 256  # ring buffers of NCCL, and of MPI between the ranks of a host


def check_packages() -> Finding:
    versions = f"Python {platform.python_version()}, MXNet {mx.__version__}, numpy {np.__version__}"
    features = mx.runtime.Features()
    built = [name for name in ("MKLDNN", "CUDA", "CUDNN", "NCCL") if features.is_enabled(name)]
    detail = f"{versions}; MXNet is built with {', '.join(built) or 'neither oneDNN nor CUDA'}"
    if not mx.__version__.startswith("1.9."):
        return Finding(FAIL, "packages", detail, "install MXNet 1.9.1 with launch/install.sh")
    return Finding(OK, "packages", detail)


def check_horovod() -> Finding:
    build = horovod_world.horovod_build()
    if build is None:
        remedy = "for more than one process: launch/install.sh cpu horovod board"
        return Finding(NOTE, "horovod", "not installed", remedy)
    return Finding(OK, "horovod", build)


def check_threads(num_threads: int) -> Finding:
    """num_threads: of this rank."""
    num_cores = threads.usable_cores()
    detail = f"cores for the ranks of this host: {num_cores}, threads of this rank: {num_threads}"
    if threads.has_bfloat16():
        detail += "; the processor supports --dtype bfloat16"
    if num_cores < num_threads:
        remedy = f"unset OMP_NUM_THREADS={num_threads}: threads compete for cores"
        return Finding(NOTE, "threads", detail, remedy)
    return Finding(OK, "threads", detail)


def check_devices(world: World) -> Finding:
    num_gpus = mx.context.num_gpus()
    detail = f"GPUs: {num_gpus}, ranks on this host: {world.local_size}, this rank on {world.ctx}"
    if num_gpus > world.local_size:
        return Finding(NOTE, "devices", detail, f"horovodrun -np {num_gpus} uses all GPUs")
    if num_gpus == 0 and devices.built_for_cuda():
        return Finding(NOTE, "devices", f"{detail}; MXNet is built for GPUs", devices.gpu_remedy())
    return Finding(OK, "devices", detail)


def check_disk(run_folder: Path) -> Finding:
    """run_folder: need not exist yet."""
    folder = next(path for path in (run_folder, *run_folder.absolute().parents) if path.exists())
    if not os.access(folder, os.W_OK):
        return Finding(FAIL, "disk", f"{folder} is not writable", "choose another --out")
    free_mb = shutil.disk_usage(folder).free / 1e6
    detail = f"{free_mb:,.0f} MB free in {folder}"
    if free_mb < MIN_DISK_MB:
        remedy = f"a run needs up to {MIN_DISK_MB} MB: free some, or choose another --out"
        return Finding(FAIL, "disk", detail, remedy)
    return Finding(OK, "disk", detail)


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    free_mb = shutil.disk_usage(folder).free / 1e6 if folder.exists() else 0
    detail = f"{free_mb:,.0f} MB free in {folder}"
    if free_mb < MIN_SHM_MB:
        remedy = f"NCCL and MPI need {MIN_SHM_MB} MB; in a container: docker run --shm-size 1g"
        return Finding(NOTE, "shm", detail, remedy)
    return Finding(OK, "shm", detail)
