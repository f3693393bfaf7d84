"""How Horovod sums gradients: settings as the environment that it reads when it starts.

A flag wins over the user's own HOROVOD_* environment, which wins over what autotuning has found,
and that over the defaults.
"""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from dist_ft import autotune
from dist_ft.autotune import Tuner
from dist_ft.config import Config
from dist_ft.distributed import launcher, rendezvous
from dist_ft.errors import UserError

FUSION, CYCLE = autotune.FUSION, autotune.CYCLE
HIERARCHICAL, TIMELINE = autotune.HIERARCHICAL, "HOROVOD_TIMELINE"
CPU_CYCLE_MS = "10"  # Horovod's own 1 ms wakes each rank so often that its sums take 5 % longer


class HorovodSettings(NamedTuple):
    compression: str = "none"  # of gradients on the wire
    num_groups: int = 0  # to reduce gradients in; 0: as they come
    fusion_mb: int = 0  # 0: Horovod's own
    cycle_ms: float = 0.0  # 0: 10 on a CPU, Horovod's own on a GPU
    hierarchical_allreduce: bool = False
    timeline: str = ""  # file
    kept_in: Path | None = None  # where what autotuning finds is kept; None: no autotuning
    depends_on: tuple[tuple[str, Any], ...] = ()  # the settings that it is found for

    @property
    def needs_rendezvous(self) -> bool:
        """Whether rank 0 has something to prepare, that the others must hear of."""
        return bool(self.timeline or self.kept_in)

    def flags(self) -> dict[str, str]:
        """The environment of what was asked for."""
        given = {}
        if self.fusion_mb:
            given[FUSION] = str(self.fusion_mb * 2**20)
        if self.cycle_ms:
            given[CYCLE] = str(self.cycle_ms)
        if self.hierarchical_allreduce:
            given[HIERARCHICAL] = "1"
        if self.timeline:
            given[TIMELINE] = os.path.abspath(self.timeline)
        return given

    def defaults(self, on_gpu: bool) -> dict[str, str]:
        """The environment of what nobody has asked for."""
        return {} if on_gpu or self.kept_in else {CYCLE: CPU_CYCLE_MS}

    def prepare(self) -> None:
        """Makes room for the timeline. Raises UserError: Horovod would go on without a word."""
        if not self.timeline:
            return
        try:
            Path(self.timeline).parent.mkdir(parents=True, exist_ok=True)
            Path(self.timeline).write_bytes(b"")
        except OSError as error:
            raise UserError(
                f"--horovod-timeline {self.timeline}: cannot be written ({error.strerror}):"
                " choose another"
            ) from error

    def tuner(self, on_gpu: bool) -> Tuner | None:
        if self.kept_in is None:
            return None
        found_on = {
            "ranks": launcher.launched_size(),
            "ranks of a host": launcher.local_size(),
            "launcher": "MPI" if launcher.started_by_mpi() else "Gloo",
            "device": "gpu" if on_gpu else "cpu",
            # Not by an import: the tuner reads its measures when Horovod's library is loaded.
            "version of horovod": _version(),
            "fixed": {name: os.environ.get(name) for name in (FUSION, CYCLE, HIERARCHICAL)},
        }
        return Tuner(self.kept_in, {**dict(self.depends_on), **found_on})


PLAIN = HorovodSettings()


def begin(tuning: HorovodSettings, on_gpu: bool) -> Tuner | None:
    """Sets the environment that Horovod is loaded and started with; rank 0's tuner, if any.

    Raises UserError on all ranks alike.
    """
    os.environ.update(tuning.flags())
    tuner = None

    def prepare() -> dict[str, str]:
        nonlocal tuner
        tuning.prepare()
        tuner = tuning.tuner(on_gpu)
        if tuner is None:
            return {}
        environment = tuner.environment()
        print(tuner.greeting(), flush=True)
        return environment

    told = rendezvous.share_from_rank_0(prepare) if tuning.needs_rendezvous else {}
    for name, value in {**told, **tuning.defaults(on_gpu)}.items():
        os.environ.setdefault(name, value)
    return tuner


def _version() -> str | None:
    try:
        return metadata.version("horovod")
    except metadata.PackageNotFoundError:
        return None  # which is told where it is loaded


def of(config: Config) -> HorovodSettings:
    c = config
    names = "model", "image_size", "batch_size", "scale_batch", "dtype", "compression", "num_groups"
    learns = [c.backbone_lr_mult > 0, *c.lr_mult, *c.freeze]
    return HorovodSettings(
        c.compression,
        c.num_groups,
        c.fusion_mb,
        c.cycle_ms,
        c.hierarchical_allreduce,
        c.horovod_timeline,
        c.cache_folder.parent / "tuning" if c.autotune else None,
        (*((name, getattr(c, name)) for name in names), ("learns", learns)),
    )
