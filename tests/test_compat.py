"""Python 3.12: numpy has its removed aliases again when MXNet is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dist_ft import compat
from tests.conftest import ENVIRONMENT

ON_312 = sys.version_info >= (3, 12)


def run_python(program: str, cwd=None) -> list[str]:
    """The words that a new interpreter prints."""
    words = [sys.executable, "-c", program]
    done = subprocess.run(
        words, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_aliases_are_restored_and_existing_attributes_kept():
    printed = run_python(
        "import numpy as np; from dist_ft import compat\n"
        "np.int = 'unchanged'\n"
        "compat.restore_numpy_aliases()\n"
        "print(np.bool is bool, np.object is object, np.float is float, np.int)"
    )
    assert printed == ["True", "True", "True", "unchanged"]


def test_the_hook_imports_numpy_only_when_mxnet_is_imported(tmp_path):
    (tmp_path / "mxnet.py").write_text("import numpy; assert numpy.bool is bool\n")
    printed = run_python(
        "import sys; sys.path.insert(0, '.'); from dist_ft import compat\n"
        "sys.meta_path.insert(0, compat.MxnetImportHook())\n"
        "import json; print('numpy' in sys.modules)\n"
        "import mxnet; print(mxnet.__file__.endswith('mxnet.py'))\n"
        "print(sum(isinstance(f, compat.MxnetImportHook) for f in sys.meta_path) <= 1)",
        cwd=tmp_path,
    )
    assert printed == ["False", "True", "True"]


def test_the_hook_is_installed_on_python_312_only():
    installed = any(isinstance(finder, compat.MxnetImportHook) for finder in sys.meta_path)
    # On 3.12 the hook removes itself once mxnet has been imported.
    assert installed == (ON_312 and "mxnet" not in sys.modules)


@pytest.mark.skipif(not ON_312, reason="Python 3.12 only")
def test_a_process_that_does_not_import_dist_ft_loads_horovod_on_312():
    assert run_python("import horovod.mxnet as hvd, gluoncv; print(hvd.gloo_built())") == ["True"]
