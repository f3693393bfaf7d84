"""Loss scaling, which keeps small gradients from underflowing to zero in float16.

See Micikevicius et al. 2018, "Mixed Precision Training".
"""

from __future__ import annotations

from typing import Sequence

import mxnet as mx


class FixedLossScale:
    """A loss scale of 1, for types with the exponent range of float32."""

    value = 1.0
    good_steps = 0

    def update(self, gradients: Sequence[mx.nd.NDArray]) -> bool:
        """True: no step has to be repeated."""
        return True

    def state(self) -> list[float] | None:
        """The constructor's arguments, for a checkpoint."""
        return None


UNSCALED = FixedLossScale()


class DynamicLossScale(FixedLossScale):
    """A loss scale that adapts to the gradients.

    It is halved when gradients overflow, and the step is repeated, so that no step is skipped. All
    ranks agree without communication, since each looks at the gradients summed over all ranks.
    """

    GROWTH_INTERVAL = 2000  # steps without an overflow after which it is doubled
    MAX = 2.0**24

    def __init__(self, value: float = 2.0**16, good_steps: int = 0):
        self.value, self.good_steps = value, good_steps

    def update(self, gradients: Sequence[mx.nd.NDArray]) -> bool:
        """Returns False if the step has to be repeated with the scale that is now smaller.

        Gradients that overflow with a scale of 1 are accepted: the loss itself is not finite then,
        and the caller checks it. Waits for the device.
        """
        is_finite = mx.nd.multi_all_finite(*gradients, num_arrays=len(gradients)).asscalar()
        if not is_finite and self.value > 1:
            self.value, self.good_steps = self.value / 2, 0
            return False
        self.good_steps += 1
        if self.good_steps == self.GROWTH_INTERVAL:
            self.value, self.good_steps = min(2 * self.value, self.MAX), 0
        return True

    def state(self) -> list[float] | None:
        return [self.value, self.good_steps]
