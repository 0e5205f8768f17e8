"""Reads what NATS holds of tenants: the streams of their requests, and the counters of what they used."""

import json
from datetime import UTC, datetime
from typing import Any

from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from fleet import subjects
from fleet.messages import decode
from fleet.messages.base import Message
from fleet.tenants.names import EVERY, subject_of, tenant_of, tokens_on

WITHIN_S = 5.0


class _Counter(Message, frozen=True):
    """The body that JetStream gives a counter's message."""

    val: str = "0"


async def tokens_used_today(js: JetStreamContext, tenant: str) -> int:
    """Of its deliberations that ended since midnight, in UTC. Raises what NATS does."""
    day = tokens_on(tenant, datetime.now(UTC).date().isoformat())
    try:
        msg = await js.get_last_msg(subjects.TENANT_TOKENS, day)
    except NotFoundError:
        return 0
    return int(decode(msg.data or b"{}", _Counter).val)


async def request_streams(nc: Any) -> dict[str, dict[str, Any]]:
    """Tenant -> its stream, as `STREAM.LIST` tells it (`config`, `state`), by name; not the default one's. Raises what
    nats-py does."""
    streams: list[dict[str, Any]] = []
    while True:
        asked = {"subject": subject_of(EVERY, subjects.REQUESTED), "offset": len(streams)}
        reply = await nc.request("$JS.API.STREAM.LIST", json.dumps(asked).encode(), timeout=WITHIN_S)
        page = json.loads(reply.data)
        if "error" in page:
            raise APIError.from_error(page["error"])
        streams += page["streams"] or ()
        if not page["streams"] or len(streams) >= page["total"]:
            by_tenant = {tenant_of(stream["config"]["subjects"][0]): stream for stream in streams}
            return {tenant: by_tenant[tenant] for tenant in sorted(by_tenant)}
