"""The errors by which MXNet reports that another rank is gone."""

from __future__ import annotations

import mxnet as mx
import pytest

from dist_ft.distributed.rank_failure import is_rank_failure


@pytest.mark.parametrize(
    "message",
    [
        "Horovod has been shut down. This was caused by an exception on one of the ranks",
        "[/src/third_party/gloo/gloo/transport/tcp/pair.cc:572] Connection closed by peer",
        'Traceback (most recent call last):\n  File "Read error [127.0.0.1]", line 37533\n'
        "MXNetError: Connection reset by peer",
    ],
)
def test_rank_failures_are_recognized_by_their_message(message):
    assert is_rank_failure(mx.MXNetError(message))
    assert not is_rank_failure(RuntimeError(message))


@pytest.mark.parametrize("error", [None, mx.MXNetError("out of memory"), ValueError("gloo")])
def test_other_errors_are_not_rank_failures(error):
    assert not is_rank_failure(error)
