"""Who waits for the end of a task hears of it from its event."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from nats.aio.msg import Msg

from fleet import subjects
from fleet.errors import FleetError
from fleet.jetstream.connection import OUTAGES
from fleet.jetstream.origin import published
from fleet.messages import UNDECODABLE, DeliberationRejected, decode

log = structlog.get_logger(__name__)

RECENT_REJECTIONS = 1024


class Endings:
    """Tells those who wait that a task has ended, or that a request was rejected.

    `inline` makes a body whole that travels by reference.
    """

    def __init__(self, inline: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._inline = inline
        self._closed = False
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._rejected: dict[int, bytes] = {}

    async def on_event(self, msg: Msg) -> None:
        """Terminal events and rejections, from core NATS: hints to look at the state, and at the stream."""
        if not published(msg, *subjects.TERMINAL, subjects.REJECTED):
            return
        if msg.subject == subjects.REJECTED:
            try:
                self.note_rejection(await self._inline(msg.data))
            except (FleetError, *UNDECODABLE, *OUTAGES) as error:
                log.warning("rejection.unreadable", error=repr(error))  # who waits for it looks into the stream
        elif task_id := (msg.headers or {}).get("Task-Id"):
            self._wake(task_id)

    def note_rejection(self, body: bytes) -> None:
        """A rejection, however it was heard of."""
        sequence = decode(body, DeliberationRejected).stream_sequence
        self._rejected[sequence] = body
        if len(self._rejected) > RECENT_REJECTIONS:
            del self._rejected[next(iter(self._rejected))]
        self._wake(f"#{sequence}")

    def rejection(self, sequence: int) -> bytes | None:
        """The rejection of the request with this stream sequence, if it was rejected lately."""
        return self._rejected.get(sequence)

    def close(self) -> None:
        """Nobody waits here any longer."""
        self._closed = True
        for key in list(self._waiting):
            self._wake(key)

    async def wait(self, keys: tuple[str, ...], timeout_s: float) -> bool:
        """Returns when one of `keys` (task ids, `#<sequence>`) was heard of, or the time is over; False: closed."""
        if self._closed:
            return False
        event = asyncio.Event()
        for key in keys:
            self._waiting.setdefault(key, set()).add(event)
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            for key in keys:
                waiting = self._waiting[key]
                waiting.discard(event)
                if not waiting:
                    del self._waiting[key]
        return not self._closed

    def _wake(self, key: str) -> None:
        for event in self._waiting.get(key, ()):
            event.set()
