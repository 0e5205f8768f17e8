"""Orders dispatchers with different versions or settings that run side by side: the newest decides about the workers.

The one of the newer version, then the one that began later. Without an order each would replace the other's workers,
again and again, and no long call would ever end.
"""

import re

Generation = tuple[tuple[int, ...], int]
"""The version's numbers, and when the dispatcher began (ms since 1970)."""

UNKNOWN: Generation = ((), 0)
"""Of a worker that an early version launched."""


def generation(version: str, began_ms: int) -> Generation:
    """`0.10.1` is newer than `0.9`."""
    return tuple(int(number) for number in re.findall(r"\d+", version)), began_ms
