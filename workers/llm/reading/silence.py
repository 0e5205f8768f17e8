"""Limits silence: the time to the first token, and then the time between two pieces of text.

Bytes are no sign of life: a proxy may send comments for as long as nobody writes. To note a piece of text costs one
reading of the clock; the timer is set anew only when it fires.
"""

import asyncio
from types import TracebackType


class Silence:
    """`async with Silence(first_s, between_s) as silence:`, and `silence.broken()` at each piece of text.

    Raises TimeoutError when it lasted too long; then `expired` is true.
    """

    def __init__(self, first_s: float, between_s: float) -> None:
        self._limit_s = first_s
        self.first_after_s: float | None = None
        """When the first piece of text came, since the beginning."""
        self._between_s = between_s
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> "Silence":
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        await self._timeout.__aenter__()
        self._timer = self._loop.call_at(self._since + self._limit_s, self._look)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    @property
    def expired(self) -> bool:
        return self._timeout.expired()

    @property
    def limit_s(self) -> float:
        """Of the silence that goes on."""
        return self._limit_s

    def broken(self) -> None:
        """Text has come: the silence is over."""
        now = self._loop.time()
        if self.first_after_s is None:
            self.first_after_s = now - self._since
        self._since = now
        if self._limit_s != self._between_s:
            self._limit_s = self._between_s
            self._set()

    def _set(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._since + self._limit_s, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        if now - self._since >= self._limit_s:
            self._timeout.reschedule(now)
        else:
            self._set()
