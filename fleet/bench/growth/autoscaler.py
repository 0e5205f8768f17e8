"""Sizes something as a HorizontalPodAutoscaler of Kubernetes does, with its default steps.

What is wanted comes at once, four or as many again every fifteen seconds. What is too many goes once it was too many in
all of a window.
"""

from collections import deque
from math import inf

UP_SHARE, UP_COUNT, UP_EVERY_S = 1.0, 4, 15.0


class Autoscaler:
    """Of one thing, at least one and at most `most` of it."""

    def __init__(self, most: int, window_s: float) -> None:
        self._most, self._window_s = most, window_s
        self._wanted = deque[tuple[float, int]]()
        self._grown_at, self._grown_from = -inf, 0

    def size(self, now: float, count: int, wanted: int) -> int:
        """How many there shall be. `count`: how many there are, or will be."""
        wanted = max(1, min(self._most, wanted))
        self._wanted.append((now, wanted))
        while self._wanted[0][0] < now - self._window_s:
            self._wanted.popleft()
        if wanted <= count:
            return min(count, max(each for _, each in self._wanted))
        if now - self._grown_at >= UP_EVERY_S:
            self._grown_at, self._grown_from = now, count
        limit = max(self._grown_from + UP_COUNT, round(self._grown_from * (1 + UP_SHARE)))
        return max(count, min(wanted, limit))
