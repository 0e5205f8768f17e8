"""Wakes calls that wait for the end of a task, or for the rejection of a request, once its event is published."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import structlog
from nats.aio.msg import Msg

from fleet import subjects
from fleet.control.service.calls import Receipt
from fleet.errors import FleetError
from fleet.jetstream.connection import OUTAGES
from fleet.jetstream.origin import published
from fleet.messages import UNDECODABLE, DeliberationRejected, decode
from fleet.tenants.names import key_of_event, subject_of, tenant_of, without_tenant

log = structlog.get_logger(__name__)

RECENT_REJECTIONS = 1024
TOLD = (*subjects.TERMINAL, subjects.REJECTED)


def request_key(tenant: str, receipt: Receipt) -> str:
    """Names a request: message ids are a tenant's own. No key of a task has such a character."""
    return f"#{tenant}#{receipt.sequence}#{receipt.message_id}"


class Closed(Exception):
    """This instance shuts down: nobody may wait here any longer."""


class Waiter:
    """Notices every event of its keys since it was registered."""

    def __init__(self, waiters: "Waiters") -> None:
        self._waiters = waiters
        self.event = asyncio.Event()

    async def wait(self, timeout_s: float) -> bool:
        """Whether an event came since the last call, or within the time. Raises `Closed`."""
        try:
            if not self._waiters.closed:
                async with asyncio.timeout(timeout_s):
                    await self.event.wait()
        except TimeoutError:
            return False
        if self._waiters.closed:
            raise Closed
        self.event.clear()
        return True


class Waiters:
    """The calls that wait, by the task's key and by `request_key`. `inline` makes a body whole that travels by
    reference.
    """

    def __init__(self, inline: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._inline = inline
        self.closed = False
        self._waiting: dict[str, set[Waiter]] = {}
        self._rejected: dict[str, bytes] = {}

    async def on_event(self, msg: Msg) -> None:
        """Terminal events and rejections, from core NATS: hints to look at the state, and at the stream."""
        if not published(msg, *(subject_of(tenant_of(msg.subject), subject) for subject in TOLD)):
            return
        if without_tenant(msg.subject) == subjects.REJECTED:
            try:
                self.note_rejection(await self._inline(msg.data))
            except (FleetError, *UNDECODABLE, *OUTAGES) as error:
                log.warning("rejection.unreadable", error=repr(error))  # calls that wait for it look into the stream
        elif (msg.headers or {}).get("Task-Id"):
            self.wake(key_of_event(msg.subject, msg.headers))

    def note_rejection(self, body: bytes) -> None:
        """Keeps a rejection, from its event or from the stream."""
        rejected = decode(body, DeliberationRejected)
        if not rejected.message_id:
            return  # no instance has published that request
        request = request_key(rejected.tenant, Receipt(rejected.stream_sequence, rejected.message_id))
        self._rejected[request] = body
        if len(self._rejected) > RECENT_REJECTIONS:
            del self._rejected[next(iter(self._rejected))]
        self.wake(request)

    def rejection(self, tenant: str, receipt: Receipt) -> bytes | None:
        """The rejection of the tenant's request, if it was rejected lately."""
        return self._rejected.get(request_key(tenant, receipt))

    def close(self) -> None:
        """Every wait, now and later, raises `Closed`."""
        self.closed = True
        for key in self._waiting:
            self.wake(key)

    @contextmanager
    def registered(self, *keys: str) -> Iterator[Waiter]:
        """A waiter for these keys. Register before you look: an event in between is noticed then."""
        waiter = Waiter(self)
        for key in keys:
            self._waiting.setdefault(key, set()).add(waiter)
        try:
            yield waiter
        finally:
            for key in keys:
                self._waiting[key].discard(waiter)
                if not self._waiting[key]:
                    del self._waiting[key]

    def wake(self, key: str) -> None:
        """Something has happened to this task or request."""
        for waiter in self._waiting.get(key, ()):
            waiter.event.set()
