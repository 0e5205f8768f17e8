"""A continuous pull from a JetStream consumer: demand follows free capacity, messages are handed on as they come.

nats-py's `fetch` holds a batch back until it is full or its time is over, and loses what arrives around that moment.
Here one inbox stays subscribed, and pull requests are published whenever there is more capacity than demand.

`_asked` counts what the server still owes. Every pull request ends in messages or in a status that says how many it
did not deliver (`Nats-Pending-Messages`). When that account cannot be trusted any more (a missing heartbeat, a
reconnect), a new inbox starts a new account: the server drops requests whose inbox nobody listens to.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

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


class Pull:
    """Takes what is stored under the subject `served`.

    `free()` is how many messages could be worked on now; `deliver` takes one and returns at once.

    Call `wake()` when capacity has become free, `reset()` after a reconnect.
    """

    def __init__(
        self,
        nc: Client,
        stream: str,
        consumer: str,
        served: str,
        *,
        free: Callable[[], int],
        deliver: Callable[[Msg], None],
    ) -> None:
        self._nc = nc
        self._stream, self._consumer, self._served = stream, consumer, served
        self._name = f"{stream}/{consumer}"
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._free = free
        self._deliver = deliver
        self._asked = 0
        self._heard_at = self._well_at = time.monotonic()
        self._failed = False
        self._pause_s = 0.0
        self._renew = True
        self._wake = asyncio.Event()
        self._inbox = ""
        self._sub: Any = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Asks for nothing more; what the server had sent before is delivered still."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._leave()

    def wake(self) -> None:
        self._wake.set()

    def reset(self) -> None:
        """Forget what was asked for: the server may have."""
        self._renew = True
        self._wake.set()

    @property
    def silent_s(self) -> float:
        """Seconds since the server last gave a sign that it serves us; 0 while nothing is wanted of it."""
        return 0.0 if self._asked == 0 and self._free() <= 0 else time.monotonic() - self._well_at

    async def _run(self) -> None:
        while True:
            try:
                await self._step()
            except (nats.errors.Error, OSError, TimeoutError) as error:
                self._fail(type(error).__name__)
            if self._failed:
                self._failed = False
                await asyncio.sleep(self._pause_s)
                continue
            self._wake.clear()
            try:
                async with asyncio.timeout(TICK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _step(self) -> None:
        if not self._nc.is_connected:
            return
        if self._asked and time.monotonic() - self._heard_at > 2 * HEARTBEAT_S:
            log.warning("pull.silent", consumer=self._name, asked=self._asked)
            self._renew = True
        if self._renew:
            self._renew = False
            await self._leave()
            await self._enter()
        lacking = self._free() - self._asked
        # While something is still owed, a small lack can wait: one request for several saves as many.
        if lacking > 0 and (self._asked == 0 or lacking > self._asked):
            await self._ask(lacking)

    async def _ask(self, count: int) -> None:
        if self._asked == 0:
            self._heard_at = time.monotonic()
            if self._pause_s == 0.0:
                self._well_at = self._heard_at
        self._asked += count
        wanted = {"batch": count, "expires": int(EXPIRES_S * 1e9), "idle_heartbeat": int(HEARTBEAT_S * 1e9)}
        await self._nc.publish(self._subject, encode(wanted), reply=self._inbox)

    async def _enter(self) -> None:
        inbox = self._inbox = self._nc.new_inbox()
        self._asked = 0

        async def receive(msg: Msg) -> None:
            self._receive(msg, current=inbox == self._inbox)

        self._sub = await self._nc.subscribe(inbox, cb=receive)

    async def _leave(self) -> None:
        sub, self._sub = self._sub, None
        if sub is None or self._nc.is_closed:
            return
        try:
            async with asyncio.timeout(DRAIN_S):
                await sub.drain()
        except (nats.errors.Error, OSError, TimeoutError) as error:
            # What is lost here comes again after ack_wait.
            log.warning("pull.not_drained", consumer=self._name, error=type(error).__name__)

    def _receive(self, msg: Msg, *, current: bool) -> None:
        headers = msg.headers or {}
        status = headers.get("Status")
        # Only what has no ack subject is about the pull itself.
        if status is None or msg.reply.startswith("$JS.ACK."):
            if not delivered(msg, self._stream, self._consumer, (self._served,)):
                return
            self._well()
            if current:
                self._asked = max(0, self._asked - 1)
            self._deliver(msg)
            if current and self._asked == 0:
                self._wake.set()
            return
        if not current:
            return
        if status == _HEARTBEAT:
            self._well()
            return
        pending = headers.get("Nats-Pending-Messages")
        if status == _EXPIRED and pending is not None:
            self._well()
            self._asked = max(0, self._asked - int(pending))
        else:
            # 404, 409, 503: what became of the other requests is not said.
            self._fail(f"{status} {headers.get('Description', '')}".strip())
        self._wake.set()

    def _well(self) -> None:
        self._heard_at = self._well_at = time.monotonic()
        self._pause_s = 0.0

    def _fail(self, error: str) -> None:
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2 or FIRST_PAUSE_S)
        self._failed = True
        self._renew = True
        log.warning("pull.failed", consumer=self._name, error=error, pause_s=self._pause_s)
