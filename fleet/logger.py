"""Makes loggers that import structlog with their first event: a user of the client alone need not load it."""

import math
import time
from typing import Any


class Logger:
    """As structlog's, under the name of a module."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, method: str) -> Any:
        import structlog

        return getattr(structlog.get_logger(self._name), method)


class Seldom:
    """Counts what may come in thousands, so that a log tells of it at most once in `every_s` for each `what`.

    Where a stranger chooses `what`, those beyond the first `MOST` within that time share one line.
    """

    MOST = 16

    def __init__(self, every_s: float = 1.0) -> None:
        self._every_s = every_s
        self._told: dict[str, tuple[float, int]] = {}
        """When it was told, and how many there were since."""

    def count(self, what: str) -> int | None:
        """How many of these there were since the last line, this one included; None: no line is due."""
        now_s = time.monotonic()
        if what not in self._told and len(self._told) >= self.MOST:
            self._told = {name: told for name, told in self._told.items() if now_s - told[0] < self._every_s}
            if len(self._told) >= self.MOST:
                what = "others"
        told_at, since = self._told.get(what, (-math.inf, 0))
        is_due = now_s - told_at >= self._every_s
        self._told[what] = (now_s, 0) if is_due else (told_at, since + 1)
        return since + 1 if is_due else None
