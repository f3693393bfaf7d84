"""Hides the GPUs from all tests but test_gpu.py: tests start more ranks than most hosts have GPUs.

A module of its own, since pytest imports conftest.py twice, as conftest and as tests.conftest.
"""

from __future__ import annotations

import os

VARIABLE = "CUDA_VISIBLE_DEVICES"
_original = os.environ.get(VARIABLE)
os.environ[VARIABLE] = ""


def with_gpus(environment: dict[str, str]) -> dict[str, str]:
    """The environment with the GPUs that were visible when the tests started."""
    environment = {name: value for name, value in environment.items() if name != VARIABLE}
    if _original is not None:
        environment[VARIABLE] = _original
    return environment
