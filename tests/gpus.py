"""Hides GPUs from the tests: they start more ranks than most hosts have GPUs. test_gpu.py has them.

A module of its own because pytest imports conftest.py twice, as conftest and as tests.conftest.
"""

from __future__ import annotations

import os

_NAME = "CUDA_VISIBLE_DEVICES"
_SHOWN = {_NAME: os.environ[_NAME]} if _NAME in os.environ else {}
os.environ[_NAME] = ""


def with_gpus(environment: dict[str, str]) -> dict[str, str]:
    """An environment that shows the GPUs that were shown to the tests."""
    others = {name: value for name, value in environment.items() if name != _NAME}
    return {**others, **_SHOWN}
