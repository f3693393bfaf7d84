"""Fine-tune a pretrained image classifier with Apache MXNet Gluon and Horovod."""

import sys

if sys.version_info >= (3, 12):
    from dist_ft import compat  # noqa: F401 - MXNet's numpy names, before anything imports MXNet

__version__ = "0.1.0"
