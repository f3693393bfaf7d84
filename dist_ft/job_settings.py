"""The settings of a job around its steps: devices, ranks and output."""

from __future__ import annotations

from dataclasses import dataclass

from dist_ft.settings import setting

DTYPES = ("float32", "bfloat16", "float16", "auto")
DEVICES = ("auto", "cpu", "gpu")


@dataclass(frozen=True)
class DistributedSettings:
    """devices and ranks"""

    device: str = setting("auto", "auto: a GPU if MXNet sees one", choices=DEVICES, may_change=True)
    dtype: str = setting(
        "float32",
        "type of the computation; bfloat16: CPUs with AVX512-BF16 or AMX; float16: GPUs;"
        " auto: the fastest here",
        choices=DTYPES,
    )
    compression: str = setting(
        "none", "type of the gradients on the network", choices=("none", "fp16")
    )
    num_groups: int = setting(
        0,
        "number of groups that gradients are reduced in; 0: fused as they arrive",
        low=0,
        may_change=True,
    )
    fusion_mb: int = setting(
        0, "Horovod's fusion buffer, MB; 0: Horovod's default", low=0, may_change=True
    )
    cycle_ms: float = setting(
        0.0,
        "Horovod's cycle time, ms; 0: 10 on a CPU, Horovod's default on a GPU",
        low=0,
        may_change=True,
    )
    hierarchical_allreduce: bool = setting(
        False, "reduce within each host, then between hosts; needs NCCL and MPI", may_change=True
    )
    autotune: bool = setting(
        False, "let Horovod tune its fusion buffer and cycle time", may_change=True
    )
    horovod_timeline: str = setting(
        "", "FILE for Horovod's timeline of all reductions; slows rank 0 down", may_change=True
    )
    stall_timeout: float = setting(
        300.0, "seconds without progress after which the job ends", low=1, may_change=True
    )
    elastic: bool = setting(
        False,
        "survive the loss of ranks and accept new ones; see launch/elastic.sh",
        may_change=True,
    )
    commit_every: int = setting(
        10, "steps between the in-memory commits of an elastic run", low=1, may_change=True
    )
    check_every: int = setting(
        0,
        "steps between comparisons of the ranks' parameters; 0: every epoch",
        low=0,
        may_change=True,
    )


@dataclass(frozen=True)
class OutputSettings:
    """output"""

    out: str = setting("", "folder of the run (default: runs/NAME-OF-DATA)", may_change=True)
    resume: str = setting(
        "auto",
        "auto: resume the run in --out; never: start over; or the DIR of a run",
        may_change=True,
    )
    keep: int = setting(2, "latest checkpoints to keep, besides the best", low=1, may_change=True)
    save_every: int = setting(
        0, "steps between checkpoints; 0: every epoch", low=0, may_change=True
    )
    log_every: int = setting(
        10, "steps between points of the training curves", low=1, may_change=True
    )
    board_every: int = setting(
        0,
        "epochs between TensorBoard's figures; 0: as often as takes one percent of the time",
        low=0,
        may_change=True,
    )
    preview: str = setting(
        "",
        "FILE (.png, .jpg): only draw the training images of the first step, as the network sees"
        " them",
        may_change=True,
    )
    histograms: bool = setting(
        False, "write histograms of weights and gradients to TensorBoard", may_change=True
    )
