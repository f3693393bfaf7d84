"""models.precision: 16-bit types where the device supports them."""

import mxnet as mx
import pytest

from dist_ft.distributed import threads
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.models import precision


def test_a_type_that_the_device_does_not_support_is_rejected():
    with pytest.raises(UserError, match=r"--dtype bfloat16: needs a CPU with .* uses gpu\(0\)"):
        precision.use_dtype("bfloat16", mx.gpu(0))
    with pytest.raises(UserError, match=r"--dtype float16: needs a GPU, .* uses cpu\(0\)"):
        precision.use_dtype("float16", mx.cpu())


@pytest.mark.parametrize("other", ["float32", "float16"])
def test_a_process_cannot_leave_a_16_bit_type(monkeypatch, other):
    monkeypatch.setattr(precision, "_active_16_bit_type", "bfloat16")
    precision.use_dtype("bfloat16", mx.cpu())
    with pytest.raises(UserError, match=f"--dtype {other}: .* already computes in bfloat16"):
        precision.use_dtype(other, mx.cpu())


def test_the_fastest_type_is_one_that_the_cpu_supports():
    world = World("cpu", 300)
    dtype = precision.fastest_dtype(world)
    world.close()
    assert dtype in ("float32", "bfloat16" if threads.has_bfloat16() else "float32")
    assert precision.supports(world.ctx, dtype)
