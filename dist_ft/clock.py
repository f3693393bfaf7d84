"""How far another host's clock is from this one's, as NTP has it."""

from __future__ import annotations

from typing import NamedTuple


class Clock(NamedTuple):
    offset_s: float  # how far it is ahead of this host's
    round_trip_s: float  # the offset is known to half of this

    @property
    def surely_off_s(self) -> float:
        """What the offset is at least, whatever the way there and back took."""
        return max(0.0, abs(self.offset_s) - self.round_trip_s / 2)


def compare(sent: float, received: float, replied: float, returned: float) -> Clock:
    """Of four readings, in seconds: here, there, there, here (RFC 5905, section 8)."""
    offset_s = ((received - sent) + (replied - returned)) / 2
    return Clock(offset_s, max(0.0, (returned - sent) - (replied - received)))
