"""Checks whether a run could start: network, pretrained weights, images and the allreduce."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import mxnet as mx
import numpy as np

from dist_ft.config import Config
from dist_ft.data import leakage, sources
from dist_ft.data.dataset import Dataset
from dist_ft.data.rank_batches import RankBatches
from dist_ft.data.transforms import InputSpec
from dist_ft.diagnostics import machine_checks
from dist_ft.diagnostics.finding import FAIL, NOTE, OK, Finding
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.models import pretrained, weight_file, zoo
from dist_ft.training import consistency, run_spec
from dist_ft.training.inputs import augmentation_of

NUM_CLASSES = 2  # of a network that is built as a test; any number does
ALLREDUCE_MB = 85  # gradients of a ResNet34
SCAN_TIMEOUT_S = 3600.0  # a million files on a network file system
MAX_LOADED = 400  # images


def check_all(
    config: Config, is_data_required: bool, num_threads: int, world: World
) -> list[tuple[str, list[Finding]]]:
    """Runs all checks, those of the machine included; returns each rank's name and findings.

    is_data_required: if False, a missing data set is no failure. num_threads: of this rank.
    """
    findings = [
        machine_checks.check_packages(),
        machine_checks.check_threads(num_threads),
        machine_checks.check_horovod(),
        machine_checks.check_devices(world),
        machine_checks.check_disk(config.folder),
        machine_checks.check_shared_memory(),
        *check_network(config, world),
        *check_images(config, is_data_required, num_threads, world),
    ]
    if world.size > 1:
        findings.append(check_allreduce(world))
    return world.gather((world.name, findings))


def check_network(config: Config, world: World) -> list[Finding]:
    """Builds the network and, on rank 0 as in a run, fits the pretrained weights into it."""
    net = None
    try:
        net = zoo.build(config.model, NUM_CLASSES, config.image_size, config.seed)
        detail = f"{config.model} takes images of {config.image_size} px"
        findings = [Finding(OK, "network", detail)]
    except UserError as error:
        findings = [Finding(FAIL, "network", f"--model {config.model}", str(error))]
    if world.is_main:
        findings.append(check_weights(config.weights, config.model, net))
    return findings


def check_weights(weights: str, model: str, net: mx.gluon.HybridBlock | None) -> Finding:
    """Downloads nothing. net: to fit the weights into, if it could be built."""
    try:
        path = pretrained.find_local(weights, model)
        if path is not None and net is not None:
            weight_file.load_backbone(path, net)
    except UserError as error:
        return Finding(FAIL, "weights", f"--weights {weights}", str(error))
    if path is None and weights == "auto":
        remedy = (
            f"the first run downloads them; now: python -m dist_ft.models.pretrained auto {model}"
        )
        return Finding(NOTE, "weights", f"those of {model} are not downloaded yet", remedy)
    return Finding(OK, "weights", str(path or "none: random initialization"))


def check_images(
    config: Config, is_required: bool, num_threads: int, world: World
) -> list[Finding]:
    """Compares the data sets of all ranks, and loads images of this rank's.

    is_required: if False, a data set that is missing on all ranks is no failure.
    """
    dataset, facts, problem = None, None, ""
    try:
        dataset = sources.read(config)
        facts = run_spec.describe(config.as_dict(), dataset)
    except UserError as error:
        problem = str(error)
    gathered = [(name, facts) for name, facts in world.gather((world.name, facts)) if facts]
    world.heartbeat("checking the images", SCAN_TIMEOUT_S)  # the others wait for rank 0
    if dataset is None:
        is_fine = not (is_required or gathered or Path(config.data).exists())
        return [Finding(NOTE if is_fine else FAIL, "images", config.data, problem)]
    names, all_facts = zip(*gathered)
    numbers = " + ".join(str(len(split)) for split in dataset.splits.values())
    detail = f"{len(dataset.classes)} classes, {numbers} images in {config.data}"
    differences = run_spec.rank_differences(list(all_facts), list(names))
    if differences:
        remedy = (
            f"use the same settings, versions and images on all ranks: {'; '.join(differences)}"
        )
        findings = [Finding(FAIL, "images", detail, remedy)]
    else:
        is_same = f", the same on {len(gathered)} ranks" if len(gathered) > 1 else ""
        findings = [Finding(OK, "images", detail + is_same)]
    if world.is_main:  # as in a run
        findings.append(check_leaks(dataset, config.data, config.allow_leak))
    findings.append(check_loader(config, dataset, num_threads))
    return findings


def check_leaks(dataset: Dataset, data: str, allow_leak: bool) -> Finding:
    if allow_leak:
        return Finding(OK, "leaks", "not checked, since --allow-leak is given")
    if len(dataset.train) > consistency.MAX_LEAK_CHECK_IMAGES:
        detail = (
            f"not checked, since there are more than {consistency.MAX_LEAK_CHECK_IMAGES:,} images"
        )
        command = f"python -m dist_ft.audit {shlex.quote(data)}"
        return Finding(NOTE, "leaks", detail, f"{command} checks them")
    leaks = leakage.find_leaks(dataset)
    if leaks:
        remedy = f"{leakage.leak_message(leaks)}\n--allow-leak trains on them"
        return Finding(FAIL, "leaks", data, remedy)
    return Finding(OK, "leaks", "no image is in two splits")


def check_loader(config: Config, dataset: Dataset, num_threads: int) -> Finding:
    """Decodes and augments training images as in an epoch, and measures the speed."""
    spec = InputSpec(config.image_size, config.resize_px, config.keep_ratio)
    batches = RankBatches(
        dataset,
        spec,
        config.seed,
        rank=0,
        size=1,
        num_workers=num_threads,
        prefetch_mb=config.prefetch_mb,
        augmentation=augmentation_of(config),
    )
    num_images = min(MAX_LOADED, len(dataset.train))
    start = time.perf_counter()
    for _ in batches.train(0, [slice(0, num_images)]):
        pass
    images_per_s = num_images / (time.perf_counter() - start)
    unreadable = batches.train_loader.unreadable
    batches.close()
    if unreadable:
        examples = tuple(unreadable.values())
        remedy = "repair or remove them; python -m dist_ft.audit lists all of them"
        return Finding(NOTE, "loader", f"{len(unreadable)} unreadable images", remedy, examples)
    return Finding(OK, "loader", f"{images_per_s:,.0f} images/s with --num-workers {num_threads}")


def check_allreduce(world: World) -> Finding:
    """Sums arrays of the size of a ResNet34's gradients, from and to host memory."""
    world.heartbeat("allreduce")
    values = np.ones(ALLREDUCE_MB * 2**20 // 8)
    times_s = []
    for _ in range(5):
        start = time.perf_counter()
        total = world.sum(values)
        times_s.append(time.perf_counter() - start)
    median_s = float(np.median(times_s))
    detail = f"{ALLREDUCE_MB} MB over {world.size} ranks in {median_s * 1e3:.0f} ms"
    if (total != world.size).any():
        return Finding(FAIL, "allreduce", f"{detail}, with a wrong sum", "check this host's memory")
    return Finding(OK, "allreduce", f"{detail}, {ALLREDUCE_MB / 1e3 / median_s:.2f} GB/s")
