"""Published speeds of data-parallel ResNet-50 in MXNet, to lay beside measured and predicted ones.

HOROVOD: "Horovod support for MXNet framework", github.com/horovod/horovod/pull/542: images/s in
float32 on hosts of eight V100 (p3.16xlarge). The efficiencies that stand there beside them are
those of these speeds, over one host, but for the 83 % at 64 GPUs, which is 91 %.
NVIDIA: github.com/NVIDIA/DeepLearningExamples, MxNet/Classification/RN50v1.5, "Training performance
results": images/s with data loading, one host, Horovod.
"""

from __future__ import annotations

HOROVOD = {  # GPUs: images/s without and with hierarchical allreduce
    8: (3072, 3078),
    16: (6027, 5859),
    32: (12030, 11675),
    64: (22346, 23166),
    128: (40938, 45972),
    256: (64998, 89858),
}
NVIDIA = {  # machine and numbers: images/s by GPUs
    "DGX A100, mixed": {1: 2180, 2: 4332, 4: 8587, 8: 16925},
    "DGX A100, TF32": {1: 1022, 2: 2032, 4: 4035, 8: 8001},
    "DGX-1 V100, mixed": {1: 1376, 2: 2768, 4: 5357, 8: 10723},
    "DGX-1 V100, float32": {1: 384, 2: 763, 4: 1513, 8: 3005},
    "DGX-2 V100, mixed": {1: 1492, 2: 2935, 4: 5726, 8: 11368, 16: 21484},
    "DGX-2 V100, float32": {1: 417, 2: 821, 4: 1623, 8: 3223, 16: 6338},
}


def horovod_efficiency(num_gpus: int, hierarchical: bool) -> float | None:
    """Speed a GPU over that on one host of eight; None where none was published."""
    if num_gpus not in HOROVOD:
        return None
    first = HOROVOD[8][hierarchical] / 8
    return HOROVOD[num_gpus][hierarchical] / num_gpus / first


def nvidia_efficiency(num_gpus: int) -> tuple[float, float] | None:
    """The lowest and the highest speed a GPU over that of one; None where none was published."""
    known = [
        speeds[num_gpus] / num_gpus / speeds[1]
        for speeds in NVIDIA.values()
        if num_gpus in speeds and num_gpus > 1
    ]
    return (min(known), max(known)) if known else None
