"""Errors by which Horovod reports, through MXNet, that another rank is gone."""

from __future__ import annotations

import mxnet as mx

# Parts of the messages of Horovod, Gloo and NCCL. Gloo's "[pair.cc:589] Read error
# [127.0.0.1]:37533: ..." is reformatted by MXNet, which takes it for a line of a traceback:
# File "Read error [127.0.0.1]", line 37533.
MESSAGES = (
    "Horovod has been shut down",
    "gloo/transport",
    "[gloo]",
    "Read error [",
    "writev [",
    "NCCL async error",
    "unhandled system error",
    "remote process exited",
)


def is_rank_failure(error: BaseException | None) -> bool:
    """True if the error only reports that another rank has ended."""
    return isinstance(error, mx.MXNetError) and any(text in str(error) for text in MESSAGES)
