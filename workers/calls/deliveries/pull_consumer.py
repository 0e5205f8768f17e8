"""Pulls messages from a JetStream consumer without pause: as many as there is free capacity for.

nats-py's `fetch` holds a batch back until it is full or its time is over, and loses what arrives around that moment.
Here one inbox stays subscribed, and pull requests are published whenever there is more capacity than demand.

`_requested` counts the messages that the server still has to deliver. Every pull request ends in messages or in a
status that says how many it did not deliver (`Nats-Pending-Messages`). When that count cannot be trusted any more (a
missing heartbeat, a reconnect), a new inbox starts a new count: the server drops requests of an inbox that nobody
subscribes to.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import nats.errors
import structlog
from nats.aio.msg import Msg

from fleet.jetstream.lasting import Connection
from fleet.jetstream.origin import delivered
from fleet.messages import encode

log = structlog.get_logger(__name__)

EXPIRES_S = 30.0
HEARTBEAT_S = 5.0
TICK_S = 1.0
DRAIN_S = 2.0
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0

_HEARTBEAT = "100"
_EXPIRED = "408"


class PullConsumer:
    """Takes what is stored under `subject`.

    `free()` is how many messages could be worked on now; `deliver` takes one and returns at once.

    Set `wake` when capacity has become free; call `reset()` after a reconnect.
    """

    def __init__(
        self,
        nc: Connection,
        stream: str,
        consumer: str,
        subject: str,
        *,
        free: Callable[[], int],
        deliver: Callable[[Msg], None],
        wake: asyncio.Event,
    ) -> None:
        self._nc = nc
        self._stream, self._consumer, self._subject = stream, consumer, subject
        self._name = f"{stream}/{consumer}"
        self._api = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._free = free
        self._deliver = deliver
        self._requested = 0
        self._last_reply_at = self._served_at = time.monotonic()
        self._failed = False
        self._pause_s = 0.0
        self._needs_new_inbox = True
        self._wake = wake
        self._inbox = ""
        self._sub: Any = None

    def reset(self) -> None:
        """Forgets what was requested: the server may have forgotten it."""
        self._needs_new_inbox = True
        self._wake.set()

    @property
    def silent_s(self) -> float:
        """Seconds since the server last showed that it serves this consumer; 0 while nothing is requested of it."""
        return 0.0 if self._requested == 0 and self._free() <= 0 else time.monotonic() - self._served_at

    async def run(self) -> None:
        """Runs until cancelled. Messages that the server has sent by then are still delivered. It may run again."""
        try:
            while True:
                await self._round()
        finally:
            await self._unsubscribe()
            self._requested = 0

    async def _round(self) -> None:
        try:
            await self._step()
        except (nats.errors.Error, OSError, TimeoutError) as error:
            self._fail(type(error).__name__)
        if self._failed:
            self._failed = False
            await asyncio.sleep(self._pause_s)
            return
        self._wake.clear()
        try:
            async with asyncio.timeout(TICK_S):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _step(self) -> None:
        if not self._nc.is_connected:
            return
        if self._requested and time.monotonic() - self._last_reply_at > 2 * HEARTBEAT_S:
            log.warning("pull.no_heartbeat", consumer=self._name, requested=self._requested)
            self._needs_new_inbox = True
            self._nc.doubt()
        if self._needs_new_inbox:
            self._needs_new_inbox = False
            await self._unsubscribe()
            await self._subscribe()
        missing = self._free() - self._requested
        # While messages are still to come, a small difference can wait: one request for several saves as many.
        if missing > 0 and (self._requested == 0 or missing > self._requested):
            await self._request(missing)

    async def _request(self, count: int) -> None:
        if self._requested == 0:
            self._last_reply_at = time.monotonic()
            if self._pause_s == 0.0:
                self._served_at = self._last_reply_at
        self._requested += count
        pull = {"batch": count, "expires": int(EXPIRES_S * 1e9), "idle_heartbeat": int(HEARTBEAT_S * 1e9)}
        await self._nc.publish(self._api, encode(pull), reply=self._inbox)

    async def _subscribe(self) -> None:
        inbox = self._inbox = self._nc.new_inbox()
        self._requested = 0

        def receive(msg: Msg) -> None:
            self._receive(msg, current=inbox == self._inbox)

        self._sub = await self._nc.subscribe_at_once(inbox, receive)

    async def _unsubscribe(self) -> None:
        sub, self._sub = self._sub, None
        if sub is None or self._nc.is_closed:
            return
        try:
            async with asyncio.timeout(DRAIN_S):
                await sub.drain()
        except (nats.errors.Error, OSError, TimeoutError) as error:
            # What is lost here is redelivered after ack_wait.
            log.warning("pull.not_drained", consumer=self._name, error=type(error).__name__)

    def _receive(self, msg: Msg, *, current: bool) -> None:
        headers = msg.headers or {}
        status = headers.get("Status")
        # A status of the pull itself has no ack subject.
        if status is None or msg.reply.startswith("$JS.ACK."):
            if not delivered(msg, self._stream, self._consumer, (self._subject,)):
                return
            self._note_served()
            if current:
                self._requested = max(0, self._requested - 1)
            self._deliver(msg)
            if current and self._requested == 0:
                self._wake.set()
            return
        if not current:
            return
        if status == _HEARTBEAT:
            self._note_served()
            return
        pending = headers.get("Nats-Pending-Messages")
        if status == _EXPIRED and pending is not None:
            self._note_served()
            self._requested = max(0, self._requested - int(pending))
        else:
            # 404, 409, 503: the status does not say what became of the other requests.
            self._fail(f"{status} {headers.get('Description', '')}".strip())
        self._wake.set()

    def _note_served(self) -> None:
        self._last_reply_at = self._served_at = time.monotonic()
        self._pause_s = 0.0

    def _fail(self, error: str) -> None:
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2 or FIRST_PAUSE_S)
        self._failed = True
        self._needs_new_inbox = True
        self._nc.doubt()
        log.warning("pull.failed", consumer=self._name, error=error, pause_s=self._pause_s)
