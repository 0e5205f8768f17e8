"""Looks for what calls may have missed, in the events of the last hour.

Reading them takes the longer, the more there are, and any client can make calls that want it. So those that ask at the
same time share one reading, and there is a pause before the next.
"""

from contextlib import aclosing

from nats.js import JetStreamContext

from fleet.control.service.calls import Receipt
from fleet.event_loop import SharedWork
from fleet.jetstream.history import accepted_keys, rejections
from fleet.jetstream.lifetimes import LONGEST_CALL_S
from fleet.jetstream.payloads import Texts
from fleet.tenants.names import name_of

PAUSE_S = 1.0


class LastHour:
    """Of one instance of the service."""

    def __init__(self, js: JetStreamContext, texts: Texts) -> None:
        self._js = js
        self._texts = texts
        self._requests: set[tuple[str, Receipt]] = set()
        self._keys: set[str] = set()
        self._rejections = SharedWork(self._read_rejections, PAUSE_S)
        self._acceptances = SharedWork(self._read_acceptances, PAUSE_S)

    async def rejection(self, tenant: str, receipt: Receipt) -> bytes | None:
        """The body of `deliberation.rejected` for a tenant's request."""
        self._requests.add((tenant, receipt))
        return (await self._rejections.result()).get((tenant, receipt))

    async def was_accepted(self, key: str) -> bool:
        """Whether the task was."""
        self._keys.add(key)
        return key in await self._acceptances.result()

    async def _read_rejections(self) -> dict[tuple[str, Receipt], bytes]:
        wanted, self._requests = self._requests, set()
        found = {}
        for tenant in {tenant for tenant, _ in wanted}:
            async with aclosing(rejections(self._js, self._texts, tenant, LONGEST_CALL_S)) as told:
                async for rejected, body in told:
                    request = (tenant, Receipt(rejected.stream_sequence, rejected.message_id or ""))
                    if request in wanted:
                        found[request] = body
        return found

    async def _read_acceptances(self) -> set[str]:
        wanted, self._keys = self._keys, set()
        found = set()
        for tenant in {name_of(key).tenant for key in wanted}:
            async with aclosing(accepted_keys(self._js, tenant, LONGEST_CALL_S)) as accepted:
                found |= {key async for key in accepted if key in wanted}
        return found
