"""Tells of a request that waited for room whether it was cancelled meanwhile, and its state deleted since.

Dispatchers hold what waits in memory. A request whose task has no state looks like a new one there, and would begin.
"""

import time

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from fleet.control.intake import JetStreamDelivery
from fleet.control.publishing.terminal_events import TerminalEvents

FRESH_S = 0.1
"""What has come as lately as this was not: as many as are kept would have to be cancelled after it."""


class ForgottenRequests:
    """Of one dispatcher."""

    def __init__(self, js: JetStreamContext) -> None:
        self._js = js
        self._terminal_events = TerminalEvents(js)

    def may_be(self, delivery: JetStreamDelivery) -> bool:
        """Whether it has waited for so long that it has to be looked at."""
        return time.monotonic() - delivery.received_at > FRESH_S

    async def has_ended(self, key: str, delivery: JetStreamDelivery) -> bool:
        """Whether it was taken off its stream, and has a terminal event. Raises what NATS does.

        What was only taken off begins all the same: its stream may have been lost.
        """
        try:
            await self._js.get_msg(delivery.stream, seq=delivery.sequence)
        except NotFoundError:
            return await self._terminal_events.is_stored(key, delivery.run)
        return False
