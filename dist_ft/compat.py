"""Lets MXNet 1.9.1 and gluoncv run on Python 3.12.

Python 3.12 needs numpy 1.26, which no longer has the aliases np.bool, np.int and others that MXNet
uses at import and gluoncv later. An import hook restores them just before mxnet is imported.
launch/install.sh loads this module whenever the environment's Python starts (dist_ft_compat.pth),
because other programs import mxnet too: horovodrun does so in a process of its own. The hook costs
nothing there, since it does not import numpy until mxnet is imported.
"""

from __future__ import annotations

import importlib.abc
import sys

ALIASES = {"bool": bool, "int": int, "float": float, "complex": complex, "object": object}


def restore_numpy_aliases() -> None:
    """Restore the aliases that numpy 1.24 removed; existing attributes are not changed."""
    import numpy as np

    for name, python_type in ALIASES.items():
        if name not in vars(np):
            setattr(np, name, python_type)


class MxnetImportHook(importlib.abc.MetaPathFinder):
    """Restores numpy's aliases when mxnet is about to be imported; finds no module itself."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "mxnet":
            sys.meta_path.remove(self)
            restore_numpy_aliases()


if sys.version_info >= (3, 12):
    sys.meta_path.insert(0, MxnetImportHook())
