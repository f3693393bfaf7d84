"""Checks whether a run could start, on each rank."""

from __future__ import annotations

from typing import NamedTuple

from dist_ft.config import Config
from dist_ft.diagnostics import machine_checks, run_checks
from dist_ft.diagnostics.finding import FAIL, Finding
from dist_ft.distributed.world import World


class RankFindings(NamedTuple):
    rank_name: str
    findings: list[Finding]

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == FAIL]


def check_all(
    config: Config, is_data_required: bool, num_threads: int, world: World
) -> list[RankFindings]:
    """Runs all checks on this rank; returns the findings of all ranks, on each of them.

    is_data_required: if False, a missing data set is no failure. num_threads: of this rank.
    """
    findings = [
        machine_checks.check_packages(),
        machine_checks.check_threads(num_threads),
        machine_checks.check_horovod(),
        machine_checks.check_devices(world),
        machine_checks.check_disk(config.folder),
        machine_checks.check_shared_memory(),
        *run_checks.check_network(config, world),
        *run_checks.check_images(config, is_data_required, num_threads, world),
    ]
    if world.size > 1:
        findings.append(run_checks.check_allreduce(world))
    return world.gather(RankFindings(world.name, findings))
