"""Horovod's tuning parameters, passed as the environment variables that it reads when initialized.

A flag takes precedence over the user's own HOROVOD_* variable, and that over our defaults.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from dist_ft.errors import UserError
from dist_ft.job_settings import DistributedSettings

FUSION, CYCLE = "HOROVOD_FUSION_THRESHOLD", "HOROVOD_CYCLE_TIME"  # bytes, ms
HIERARCHICAL, AUTOTUNE = "HOROVOD_HIERARCHICAL_ALLREDUCE", "HOROVOD_AUTOTUNE"
TIMELINE = "HOROVOD_TIMELINE"
DYNAMIC = "DYNAMIC"  # the timeline is started by a call, after initialization
# Horovod's default of 1 ms wakes every rank so often that an allreduce on CPUs takes 5 % longer.
CPU_CYCLE_MS = "10"


class HorovodSettings(NamedTuple):
    """How Horovod reduces gradients. The defaults leave the choice to Horovod.

    Attributes:
        compression: of gradients during the allreduce: none or fp16.
        num_groups: of gradients that are reduced together; 0: Horovod fuses what is ready.
        fusion_mb: fusion buffer; 0: Horovod's default.
        cycle_ms: 0: 10 ms on a CPU, Horovod's default on a GPU.
        hierarchical_allreduce: within each host first, then between hosts.
        timeline: file for Horovod's timeline; "": none.
        autotune: let Horovod tune fusion buffer and cycle while the run goes on.
    """

    compression: str = "none"
    num_groups: int = 0
    fusion_mb: int = 0
    cycle_ms: float = 0.0
    hierarchical_allreduce: bool = False
    timeline: str = ""
    autotune: bool = False

    def environment(self) -> dict[str, str]:
        """The variables that the flags set."""
        variables = {}
        if self.fusion_mb:
            variables[FUSION] = str(self.fusion_mb * 2**20)
        if self.cycle_ms:
            variables[CYCLE] = str(self.cycle_ms)
        if self.hierarchical_allreduce:
            variables[HIERARCHICAL] = "1"
        if self.timeline:
            variables[TIMELINE] = DYNAMIC
        if self.autotune:
            variables[AUTOTUNE] = "1"
        return variables

    def default_environment(self, on_gpu: bool) -> dict[str, str]:
        """The variables to set unless the user has."""
        # Autotuning leaves alone what a variable sets.
        return {} if on_gpu or self.autotune else {CYCLE: CPU_CYCLE_MS}

    def apply(self, on_gpu: bool) -> None:
        """Sets the variables. Must be called before Horovod is imported."""
        os.environ.update(self.environment())
        for name, value in self.default_environment(on_gpu).items():
            os.environ.setdefault(name, value)

    def create_timeline_file(self) -> str:
        """Creates the timeline's file and its folder; returns its absolute path.

        Raises UserError if it cannot: Horovod would run on without a timeline or a message.
        """
        path = Path(self.timeline).absolute()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        except OSError as error:
            raise UserError(
                f"--horovod-timeline {self.timeline}: cannot write ({error.strerror}); choose"
                " another file"
            ) from error
        return str(path)


DEFAULTS = HorovodSettings()


def from_flags(flags: DistributedSettings) -> HorovodSettings:
    return HorovodSettings(
        compression=flags.compression,
        num_groups=flags.num_groups,
        fusion_mb=flags.fusion_mb,
        cycle_ms=flags.cycle_ms,
        hierarchical_allreduce=flags.hierarchical_allreduce,
        timeline=flags.horovod_timeline,
        autotune=flags.autotune,
    )
