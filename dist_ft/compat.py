"""MXNet 1.9.1 on Python 3.12: the numpy names that it was written with.

Python 3.12 needs numpy 1.26, which no longer has np.bool, np.int and the others that were always
just Python's own types; MXNet says np.bool while it is imported, gluoncv says np.int and np.float
later on. They come back when something imports mxnet, whatever that is: horovodrun, for one, looks
into Horovod's library in a process of its own, so launch/install.sh has this module imported at
each start of the environment's Python (dist_ft_compat.pth). It costs nothing there: numpy is left
alone until mxnet is wanted.
"""

import importlib.abc
import sys

ALIASES = {"bool": bool, "int": int, "float": float, "complex": complex, "object": object}


def restore_numpy_names() -> None:
    """Give numpy the names back that it lost in 1.24; those that it has stay as they are."""
    import numpy as np

    for name, python_type in ALIASES.items():
        if name not in vars(np):
            setattr(np, name, python_type)


class BeforeMxnet(importlib.abc.MetaPathFinder):
    """Finds nothing itself: it is asked first, and so knows when mxnet is about to be imported."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "mxnet":
            sys.meta_path.remove(self)
            restore_numpy_names()


if sys.version_info >= (3, 12):
    sys.meta_path.insert(0, BeforeMxnet())
