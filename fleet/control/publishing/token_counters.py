"""Counts the tokens of each tenant by day, in counters of JetStream: each deliberation once, as its result tells.

It is counted before its terminal event is published, under a message id of its own: who publishes an end again after a
crash counts nothing twice.
"""

import time

from nats.js import JetStreamContext

from fleet.jetstream.tenants import tokens_used_today
from fleet.messages import TerminalEvent, key_of_event, of_run
from fleet.tenants.names import tokens_on

KNOWN_FOR_S = 1.0
PUBLISH_WITHIN_S = 5.0


class TokenCounters:
    """Of one process."""

    def __init__(self, js: JetStreamContext) -> None:
        self._js = js
        self._known: dict[str, tuple[float, int]] = {}

    async def count(self, event: TerminalEvent, run: str) -> None:
        """What a run of a task has used, on the day of its end. May be called again. Raises what NATS does."""
        if not (tokens := event.usage.total):
            return
        headers = {"Nats-Incr": f"+{tokens}", "Nats-Msg-Id": of_run(f"{key_of_event(event)}.tokens", run)}
        day = tokens_on(event.tenant, event.completed_at[:10])
        await self._js.publish(day, b"", headers=headers, timeout=PUBLISH_WITHIN_S)

    async def used_today(self, tenant: str) -> int:
        """Tokens of the deliberations that ended today, in UTC, as of a second ago. Raises what NATS does."""
        now, (at, used) = time.monotonic(), self._known.get(tenant, (-KNOWN_FOR_S, 0))
        if now - at >= KNOWN_FOR_S:
            used = await tokens_used_today(self._js, tenant)
            self._known[tenant] = now, used
        return used
