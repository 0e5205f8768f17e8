"""Makes loggers that import structlog with their first event: a user of the client alone need not load it."""

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
    """Counts what may come in thousands, so that a log tells of it at most once in `every_s` for each `what`."""

    def __init__(self, every_s: float = 1.0) -> None:
        self._every_s = every_s
        self._told_at: dict[str, float] = {}
        self._count = 0

    def count(self, what: str) -> int | None:
        """How many there were since the last line, this one included; None: no line is due."""
        self._count += 1
        now_s = time.monotonic()
        if now_s - self._told_at.get(what, -self._every_s) < self._every_s:
            return None
        if len(self._told_at) >= 100:
            self._told_at.clear()
        self._told_at[what] = now_s
        count, self._count = self._count, 0
        return count
