"""How the user of this environment views the TensorBoard files of a run."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def how_to_view(folder: Path) -> str:
    """The command that shows the run, or the one that installs TensorBoard."""
    viewer = "tensorboard"
    if not shutil.which(viewer):  # the virtual environment is not activated
        beside = Path(sys.executable).with_name(viewer)
        if not beside.exists():
            install = [os.path.relpath(sys.executable), "-m", "pip", "install", "tensorboard"]
            return f"to view it, install TensorBoard: {shlex.join(install)}"
        viewer = os.path.relpath(beside)
    return f"view it with: {shlex.join([viewer, '--logdir', str(folder)])}"
