"""Is this machine ready? `python -m dist_ft.doctor`, or under horovodrun for all of its ranks.

A line for each thing that a run needs: its verdict, what was found, and the remedy. The exit status
is 1 where the run could not start.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
from itertools import chain
from pathlib import Path
from typing import Iterator

from dist_ft.distributed import launcher

THREADS = launcher.take_cores()  # before MXNet is loaded, which reads them

import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402

from dist_ft.config import Config  # noqa: E402
from dist_ft.data.dataset import Dataset  # noqa: E402
from dist_ft.data.image_folder import scan  # noqa: E402
from dist_ft.data.rank_batches import RankBatches  # noqa: E402
from dist_ft.data.transforms import InputSpec  # noqa: E402
from dist_ft.diagnostics.finding import FAIL, NOTE, OK, Finding  # noqa: E402
from dist_ft.distributed import devices, startup  # noqa: E402
from dist_ft.errors import UserError  # noqa: E402
from dist_ft.models import pretrained, transfer, weight_file, zoo  # noqa: E402
from dist_ft.settings import ConfigError  # noqa: E402
from dist_ft.training import consistency, run_spec  # noqa: E402

REDUCED_MB = 85  # the gradients of a ResNet34
NEEDED_DISK_MB = 500  # three checkpoints of a ResNet34 and what is written beside them
NEEDED_SHM_MB = 256  # NCCL's rings, and MPI's between the ranks of a host
LOOKS_MAY_TAKE_S = 3600.0  # a million files of a network's file system
NUM_CLASSES = 2  # of a network to try: what it is called and what fits into it depend on no number


def examine_packages() -> Iterator[Finding]:
    found = f"Python {platform.python_version()}, MXNet {mx.__version__}, numpy {np.__version__}"
    if not mx.__version__.startswith("1.9."):
        yield Finding(FAIL, "packages", found, "this needs MXNet 1.9.1: launch/install.sh")
    else:
        yield Finding(OK, "packages", found)
    features = mx.runtime.Features()
    built = [name for name in ("MKLDNN", "CUDA", "CUDNN", "NCCL") if features.is_enabled(name)]
    yield Finding(OK, "mxnet", f"built with {', '.join(built) or 'none of oneDNN and CUDA'}")


def examine_processor() -> Iterator[Finding]:
    cores = launcher.usable_cores()
    found = f"{cores} cores for this host's ranks, {THREADS} threads for this one"
    if cores < THREADS:
        yield Finding(NOTE, "threads", found, f"unset OMP_NUM_THREADS={THREADS}: they contend")
    else:
        yield Finding(OK, "threads", found)
    if launcher.has_bfloat16():
        yield Finding(OK, "bfloat16", "the processor has it: see --dtype bfloat16")


def examine_devices(world: startup.World) -> Iterator[Finding]:
    num_gpus = mx.context.num_gpus()
    found = f"{num_gpus} GPUs, {world.local_size} ranks here, this one on {world.ctx}"
    if num_gpus > world.local_size:
        remedy = f"horovodrun -np {num_gpus} uses all of them"
        yield Finding(NOTE, "devices", found, remedy)
    elif num_gpus == 0 and devices.built_for_cuda():
        yield Finding(NOTE, "devices", f"{found}; MXNet is built for GPUs", devices.remedy())
    else:
        yield Finding(OK, "devices", found)


def examine_horovod() -> Iterator[Finding]:
    built = startup.horovod_build()
    if built is None:
        remedy = "for more than one process: launch/install.sh cpu horovod board"
        yield Finding(NOTE, "horovod", "not installed", remedy)
    else:
        yield Finding(OK, "horovod", built)


def examine_space(run: Path) -> Iterator[Finding]:
    folder = next(path for path in (run, *run.absolute().parents) if path.exists())
    free_mb = shutil.disk_usage(folder).free / 1e6
    found = f"{free_mb:,.0f} MB free in {folder}"
    if not os.access(folder, os.W_OK):
        yield Finding(FAIL, "disk", f"{folder} cannot be written", "choose another --out")
    elif free_mb < NEEDED_DISK_MB:
        remedy = f"a run takes up to {NEEDED_DISK_MB} MB: make room, or choose another --out"
        yield Finding(FAIL, "disk", found, remedy)
    else:
        yield Finding(OK, "disk", found)
    shared = Path("/dev/shm")
    free_mb = shutil.disk_usage(shared).free / 1e6 if shared.exists() else 0
    found = f"{free_mb:,.0f} MB free in {shared}"
    if free_mb < NEEDED_SHM_MB:
        yield Finding(NOTE, "shared", found, "NCCL and MPI want more: docker run --shm-size 1g")
    else:
        yield Finding(OK, "shared", found)


def examine_network(config: Config, world: startup.World) -> Iterator[Finding]:
    """The network, and on rank 0, which reads them in a run, the pretrained weights in it."""
    net, name = None, config.model
    try:
        net = zoo.build(name, NUM_CLASSES, config.image_size, config.seed)
        yield Finding(OK, "network", f"{name} takes images of {config.image_size} px")
    except UserError as error:
        yield failure("network", f"--model {name}", error)
    if world.is_main:
        yield look_at_weights(config.weights, name, net)


def look_at_weights(choice: str, name: str, net: mx.gluon.HybridBlock | None) -> Finding:
    """Downloads nothing; net: to try them in, if there is one."""
    try:
        path = pretrained.find_local(choice, name)
        if path is not None and net is not None:
            transfer.copy_backbone(weight_file.read(path), net)
    except UserError as error:
        return failure("weights", f"--weights {choice}", error)
    if path is None and choice == "auto":
        remedy = (
            f"downloaded by the first run, or now: python -m dist_ft.models.pretrained auto {name}"
        )
        return Finding(NOTE, "weights", f"none of {name} here yet", remedy)
    return Finding(OK, "weights", str(path or "none: random numbers"))


def failure(name: str, found: str, error: UserError) -> Finding:
    """Of what a run would end with, whose further lines stand below the first."""
    return Finding(FAIL, name, found, str(error).replace("\n", f"\n{'':20}"))


def examine_images(config: Config, chosen: bool, world: startup.World) -> Iterator[Finding]:
    """chosen: the user named the folder; otherwise that nobody has it yet stops nothing."""
    folder, mine, problem = None, None, ""
    try:
        folder = scan(config.data)
        mine = run_spec.of(config, folder)
    except UserError as error:
        problem = str(error)
    told = [(name, theirs) for name, theirs in world.gather((world.name, mine)) if theirs]
    world.heartbeat("looking at the images", LOOKS_MAY_TAKE_S)  # the others wait for rank 0
    if folder is None:
        is_none_yet = not (chosen or told or Path(config.data).exists())
        yield Finding(NOTE if is_none_yet else FAIL, "images", config.data, problem)
        return
    found = f"{len(folder.classes)} classes, {len(folder.train)} + {len(folder.test)} images"
    differences = run_spec.between_ranks([f for _, f in told], [name for name, _ in told])
    if differences:
        yield Finding(FAIL, "images", found, "; ".join(differences))
    else:
        yield Finding(OK, "images", f"{found} in {config.data}, the same on {len(told)} ranks")
    if world.is_main:  # as in a run
        yield look_for_leaks(config, folder)
    yield loading_speed(config, folder)


def look_for_leaks(config: Config, folder: Dataset) -> Finding:
    if config.allow_leak:
        return Finding(OK, "leaks", "allowed: test images may be training images too")
    if len(folder.train) > consistency.LEAKS_SOUGHT:
        found = f"not sought among more than {consistency.LEAKS_SOUGHT:,} training images"
        return Finding(NOTE, "leaks", found, f"python -m dist_ft.audit {config.data} finds them")
    try:
        consistency.apart(folder)
    except UserError as error:
        return failure("leaks", config.data, error)
    return Finding(OK, "leaks", "no test image is a training image too, to the byte")


def loading_speed(config: Config, folder: Dataset) -> Finding:
    """Decodes up to 400 training images, as an epoch would."""
    views = InputSpec(config.image_size, config.resize_px, config.keep_ratio)
    feed = RankBatches(folder, views, config.seed, 0, 1, THREADS, config.prefetch_mb)
    num_images = min(400, len(folder.train))
    start = time.perf_counter()
    for _ in feed.train(0, [slice(0, num_images)]):
        pass
    speed = num_images / (time.perf_counter() - start)
    bad = feed.train_loader.unreadable
    feed.close()
    if bad:
        return Finding(NOTE, "loader", f"{len(bad)} unreadable", "; ".join(list(bad.values())[:3]))
    return Finding(OK, "loader", f"{speed:,.0f} images/s on {THREADS} threads")


def examine_reduction(world: startup.World) -> Iterator[Finding]:
    """What a step's gradients cost on the wire: the median of five sums over the ranks."""
    if world.size == 1:
        return
    world.heartbeat("summing over the ranks")
    values, times = np.ones(REDUCED_MB * 2**20 // 8), []
    for _ in range(5):
        start = time.perf_counter()
        total = world.sum(values)
        times.append(time.perf_counter() - start)
    seconds = float(np.median(times))
    found = f"{REDUCED_MB} MB over {world.size} ranks in {seconds * 1e3:.0f} ms"
    if (total == world.size).all():
        yield Finding(OK, "allreduce", f"{found}, {REDUCED_MB / 1e3 / seconds:.2f} GB/s")
    else:
        yield Finding(FAIL, "allreduce", f"{found}, and wrong", "check this host's memory")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dist_ft.doctor", description=__doc__)
    parser.add_argument("--data", help=f"image folder (default: {Config.data}, if there is one)")
    parser.add_argument("--model", default=Config.model, help="network (default: %(default)s)")
    parser.add_argument("--weights", default=Config.weights, help="as of dist_ft.train")
    parser.add_argument("--image-size", type=int, default=Config.image_size, help="the same, px")
    parser.add_argument("--allow-leak", action="store_true", help="as of dist_ft.train")
    parser.add_argument("--out", default="", help="folder of runs")
    said = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    try:
        given = Config(**said)
    except ConfigError as error:
        parser.exit(2, f"dist_ft: these settings cannot be used:\n{error}\n")
    sys.exit(examine_ranks(given, "data" in said))


def examine_ranks(given: Config, chosen: bool) -> int:
    """The exit status, the same on all ranks; chosen: the user named the folder of images."""
    with startup.start() as world:
        findings = list(
            chain(
                examine_packages(),
                examine_processor(),
                examine_horovod(),
                examine_devices(world),
                examine_space(given.folder),
                examine_network(given, world),
                examine_images(given, chosen, world),
                examine_reduction(world),
            )
        )
        everyones = world.gather((world.name, [tuple(f) for f in findings if f.verdict == FAIL]))
        if world.is_main:
            print("\n".join(map(str, findings)))
            for name, failures in everyones[1:]:
                for failure in failures:
                    print(f"on {name}:\n{Finding(*failure)}")
    return int(any(failures for _, failures in everyones))
