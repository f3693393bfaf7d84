"""Python 3.12 beside MXNet 1.9.1: numpy has its old names back before mxnet is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dist_ft import compat

REPO = Path(__file__).resolve().parent.parent
ON_312 = sys.version_info >= (3, 12)


def run_python(program: str, cwd=None) -> str:
    """What a fresh interpreter prints; its exit status must be 0."""
    words = [sys.executable, "-c", program]
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    ended = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_names_come_back_and_those_that_are_there_stay():
    printed = run_python(
        "import numpy as np; from dist_ft import compat\n"
        "np.int = 'mine'\n"
        "compat.restore_numpy_names()\n"
        "print(np.bool is bool, np.object is object, np.float is float, np.int)"
    )
    assert printed.split() == ["True", "True", "True", "mine"]


def test_numpy_is_loaded_and_mended_only_when_mxnet_is_wanted(tmp_path):
    (tmp_path / "mxnet.py").write_text("import numpy; assert numpy.bool is bool\n")
    printed = run_python(
        "import sys; sys.path.insert(0, '.'); from dist_ft import compat\n"
        "sys.meta_path.insert(0, compat.BeforeMxnet())\n"
        "import json; print('numpy' in sys.modules)\n"
        "import mxnet; print(mxnet.__file__.endswith('mxnet.py'))\n"
        "print(sum(isinstance(f, compat.BeforeMxnet) for f in sys.meta_path) <= 1)",
        cwd=tmp_path,
    )
    assert printed.split() == ["False", "True", "True"]


@pytest.mark.skipif(ON_312, reason="an older Python, which must be left alone")
def test_an_older_python_is_left_alone():
    assert not any(isinstance(finder, compat.BeforeMxnet) for finder in sys.meta_path)


@pytest.mark.skipif(not ON_312, reason="Python 3.12")
def test_a_process_that_never_heard_of_dist_ft_loads_horovod_on_312():
    program = "import horovod.mxnet as hvd, gluoncv; print(hvd.gloo_built())"
    assert run_python(program).split() == ["True"]
