"""models.precision: 16-bit types where the device supports them."""

import mxnet as mx
import pytest

from dist_ft.distributed import threads
from dist_ft.errors import UserError
from dist_ft.models import precision
from dist_ft.training import startup_summary
from tests.conftest import run_job


@pytest.mark.parametrize(
    "dtype, ctx, message",
    [
        ("bfloat16", mx.gpu(0), r"needs a CPU with .* AMX, which gpu\(0\) is not"),
        ("float16", mx.cpu(0), r"needs a GPU, which cpu\(0\) is not"),
    ],
)
def test_a_type_that_the_device_does_not_support_is_rejected(dtype, ctx, message):
    with pytest.raises(UserError, match=f"--dtype {dtype}: {message}"):
        precision.use_dtype(dtype, ctx)


@pytest.mark.parametrize("other", ["float32", "float16"])
def test_a_process_cannot_leave_a_16_bit_type(monkeypatch, other):
    monkeypatch.setattr(precision, "_active_16_bit_type", "bfloat16")
    precision.use_dtype("bfloat16", mx.cpu())
    with pytest.raises(UserError, match=f"--dtype {other}: .* already computes in bfloat16"):
        precision.use_dtype(other, mx.cpu())


CONVOLUTION = """
import mxnet as mx, numpy as np
bfloat16 = np.dtype([("bfloat16", np.uint16)])  # as amp names it
weight = mx.nd.ones((16, 16, 3, 3))
weight.attach_grad()
with mx.autograd.record():
    x, w = (mx.nd.amp_cast(a, dtype=bfloat16) for a in (mx.nd.ones((1, 16, 8, 8)), weight))
    y = mx.nd.Convolution(x, w, kernel=(3, 3), num_filter=16, no_bias=True)
    y = mx.nd.amp_cast(y, dtype="float32")
y.backward()
assert np.all(weight.grad.asnumpy() == 36)  # each weight is used at 36 positions
"""


@pytest.mark.jobs
def test_this_processor_computes_in_bfloat16_exactly_if_its_flags_say_so():
    """Otherwise a run would end with MXNet's error instead of ours, or be refused needlessly."""
    ended = run_job(["-c", CONVOLUTION], 60)
    is_supported = threads.has_bfloat16() or threads.emulates_bfloat16()
    assert (ended.status == 0) == is_supported, ended.output
    assert is_supported or "could not create a primitive" in ended.output


@pytest.mark.parametrize("is_native", [True, False])
def test_emulated_bfloat16_is_used_with_a_warning(monkeypatch, is_native):
    monkeypatch.setattr(threads, "has_bfloat16", lambda: is_native)
    monkeypatch.setattr(threads, "emulates_bfloat16", lambda: not is_native)
    monkeypatch.setattr(precision.amp, "init", lambda target_dtype: None)  # cannot be undone
    monkeypatch.setattr(precision, "_active_16_bit_type", "")
    precision.use_dtype("bfloat16", mx.cpu())
    lines = list(startup_summary.describe_device("cpu", mx.cpu(), "bfloat16"))
    assert len(lines) == (not is_native)
    assert all("bfloat16 is slower than float32" in line for line in lines)
