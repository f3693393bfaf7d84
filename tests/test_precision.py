"""models.precision: 16-bit types where the device supports them."""

import mxnet as mx
import pytest

from dist_ft.errors import UserError
from dist_ft.models import precision


@pytest.mark.parametrize(
    "dtype, ctx, message",
    [
        ("bfloat16", mx.gpu(0), r"needs a CPU with .* uses gpu\(0\)"),
        ("float16", mx.cpu(0), r"needs a GPU, .* uses cpu\(0\)"),
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
