"""The daemon's steady clock: seconds since 1970 that no clock step moves.

CLOCK_BOOTTIME counts on while the machine sleeps and is never set; an offset, taken from the wall clock once in the
life of a boot and stored, turns it into moments that people can read. Deadlines live on this clock alone.
"""

import time
from collections.abc import Mapping

from gpud.model.units import Timestamp


class Clock:
    """`offset`: what CLOCK_BOOTTIME lacks to seconds since 1970."""

    def __init__(self, offset: float) -> None:
        self.offset = offset

    def __call__(self) -> Timestamp:
        """Return now."""
        return Timestamp(time.clock_gettime(time.CLOCK_BOOTTIME) + self.offset)

    def wall(self) -> float:
        """Return what the clock on the wall says, which people may set: for the times that they name."""
        return time.time()


def anchored(stored: object, boot: str) -> tuple[Clock, dict[str, object] | None]:
    """Return this boot's clock, and what to store of it where the stored anchor is of another boot."""
    if isinstance(stored, Mapping) and stored.get("boot") == boot and isinstance(stored.get("offset"), float):
        return Clock(stored["offset"]), None
    offset = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return Clock(offset), {"boot": boot, "offset": offset}
