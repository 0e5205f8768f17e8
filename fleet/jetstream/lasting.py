"""Defines the connection to NATS: it comes back when it is lost, and leaves a server that has lost its cluster."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors
from nats.aio.msg import Msg

from fleet.event_loop import log_failure
from fleet.jetstream.quirks import LastingClient
from fleet.logger import Logger

log = Logger(__name__)

REFUSED = "authorization violation"
REFUSED_FOR_S = 10.0
"""How long a connection that was let in before is tried again where all that answers refuses it."""
API, INFO = "$JS.API.", "$JS.API.INFO"
LEADERLESS = b'"err_code":10008'
"""What a server of a cluster answers, whatever is asked of JetStream, while it knows no leader."""
LEFT_AFTER_S, LONGEST_PATIENCE_S = 5.0, 60.0
"""How long a server says so before it is left: elections are shorter. Twice as long each time that the next one says
so, too: then it is the cluster that has no leader."""
DOUBTED_FOR_S = 30.0
LOOK_EVERY_S, LOOK_WITHIN_S = 1.0, 2.0


class Connection(LastingClient):
    """Hears what nats-py reports. Being refused is not waited out.

    A server that was cut off from the others of its cluster answers pings for ever, and nobody behind it is reached.
    Whoever has asked in vain says so by `doubt`; `request` does it by itself. One name may stand for several servers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.error_listener: Callable[[Exception], Awaitable[None]] | None = None
        """Hears every error that nats-py reports."""
        self._refused_at: float | None = None
        self.heard: Exception | None = None
        """The last error: nats-py itself says of the last server only that there are no more servers."""
        self._doubting: asyncio.Task[None] | None = None
        self._patience_s = LEFT_AFTER_S

    async def on_error(self, error: Exception) -> None:
        """The loss of a connection is logged by those who use it. Being refused is not waited out."""
        self.heard = error
        if self.error_listener is not None:
            await self.error_listener(error)
        if REFUSED in str(error).lower():
            now = time.monotonic()
            self._refused_at = self._refused_at or now
            if now - self._refused_at > REFUSED_FOR_S:
                raise error

    def before_reconnect(self) -> None:
        self._refused_at = None

    async def request(self, subject: str, *given: Any, **more: Any) -> Msg:
        """As nats-py's."""
        try:
            reply = await super().request(subject, *given, **more)
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
            self.doubt()
            raise
        if subject.startswith(API) and LEADERLESS in reply.data:
            self.doubt()
        return reply

    def doubt(self) -> None:
        """Something was asked in vain: looks whether this server has lost its cluster. Returns at once."""
        if self._doubting is None or self._doubting.done():
            self._doubting = asyncio.create_task(self._leave_if_alone())
            self._doubting.add_done_callback(log_failure)

    async def _leave_if_alone(self) -> None:
        """One that is silent may be about to notice it."""
        alone_since: float | None = None
        until = time.monotonic() + DOUBTED_FOR_S + self._patience_s
        while self.is_connected and time.monotonic() < until:
            leaderless = await self._is_leaderless()
            if leaderless is False:
                self._patience_s = LEFT_AFTER_S
                return
            if leaderless:
                alone_since = alone_since or time.monotonic()
                if time.monotonic() - alone_since > self._patience_s:
                    self._patience_s = min(2 * self._patience_s, LONGEST_PATIENCE_S)
                    log.warning("nats.server_left", server=self.server_id, reason="it has lost its cluster")
                    await self.leave_server()
                    return
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self.closed.wait()
            except TimeoutError:
                pass

    async def _is_leaderless(self) -> bool | None:
        """None where it does not say."""
        try:
            reply = await super().request(INFO, timeout=LOOK_WITHIN_S)
        except (nats.errors.Error, OSError, TimeoutError):
            return None
        return LEADERLESS in reply.data
