"""Reads the wall clock, in milliseconds since 1970. Only the edges use it: the core is told what time it is."""

import os
import time
from typing import Final

CLOCK_OFFSET: Final = "FLEET_CLOCK_OFFSET_S"
"""For `fleet chaos` alone: a process whose clock is that many seconds off."""
_OFFSET_MS = round(1000 * float(os.environ.get(CLOCK_OFFSET, "0")))


def now_ms() -> int:
    """The time now."""
    return time.time_ns() // 1_000_000 + _OFFSET_MS
