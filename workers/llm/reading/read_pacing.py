"""Decides how often a stream is read: with few streams at once, with many only when some tokens have come together.

A server sends every token by itself, and to be woken for each costs more than to understand it: a worker with many
streams would take cores from whoever runs beside it, a model server on the same machine above all. So it lets tokens
gather in the socket, for a time that grows with the number of streams, but never for more than a few tokens' time:
nobody who watches could tell, and an answer that comes all at once does not wait.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import aiohttp

FEW_STREAMS = 8
PER_STREAM_S = 0.004
"""What each stream beyond the few adds to the pause."""
LONGEST_S = 0.1
MOST_TOKENS = 8
"""So many tokens may gather, by the pace at which they have come so far."""
SHORTEST_S = 0.005
"""Less is not worth a timer."""
CANNOT = (AttributeError, NotImplementedError, RuntimeError)
"""What transports raise that know no pause, or are closing: it is no more than a saving."""


class ReadPacing:
    """Of one process: counts its streams."""

    def __init__(self) -> None:
        self._open = 0

    @contextmanager
    def stream(self) -> Iterator["Stream"]:
        """One stream, while it is read."""
        self._open += 1
        try:
            yield Stream(self)
        finally:
            self._open -= 1

    @property
    def pause_s(self) -> float:
        """For how long each stream may be left alone now."""
        return min(LONGEST_S, PER_STREAM_S * max(0, self._open - FEW_STREAMS))


class Stream:
    """When to read one stream again."""

    def __init__(self, pace: ReadPacing) -> None:
        self._pace = pace
        self._began = time.monotonic()
        self._first = 0

    async def rest(self, response: aiohttp.ClientResponse, tokens: int) -> None:
        """After a read that brought the answer to `tokens`: leaves what comes next in the socket for a while."""
        if self._first == 0:
            self._began, self._first = time.monotonic(), tokens
            return
        pause_s = self._pace.pause_s
        if pause_s == 0.0 or tokens == self._first:
            return
        token_s = (time.monotonic() - self._began) / (tokens - self._first)
        pause_s = min(pause_s, MOST_TOKENS * token_s)
        if pause_s < SHORTEST_S or (transport := _open_transport(response)) is None:
            return
        with suppress(*CANNOT):
            transport.pause_reading()
        try:
            await asyncio.sleep(pause_s)
        finally:
            if (transport := _open_transport(response)) is not None:
                with suppress(*CANNOT):
                    transport.resume_reading()


def _open_transport(response: aiohttp.ClientResponse) -> asyncio.Transport | None:
    """None once the response has come whole, or its connection is closed."""
    transport = response.connection.transport if response.connection is not None else None
    return None if transport is None or transport.is_closing() else transport
