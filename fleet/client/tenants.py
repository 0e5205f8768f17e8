"""Lists tenants, from what NATS shows of their streams: what they may use, what waits and what runs."""

import asyncio
from collections import Counter

from msgspec import Struct, structs

from fleet import subjects
from fleet.client.connection import Caller
from fleet.jetstream.tenants import request_streams, tokens_used_today
from fleet.tenants.limits import Tenant, read_metadata
from fleet.tenants.names import DEFAULT_TENANT, name_of


class TenantUse(Struct, frozen=True, kw_only=True):
    """`waiting`: requests that nobody has recorded yet; `in_flight`: deliberations that have not ended; `used_today`:
    tokens of those that ended since midnight (UTC), null where there is the default tenant alone, whose tokens nobody
    counts then. What the settings say stands beside: null where they set no limit.
    """

    tenant: str
    waiting: int
    in_flight: int
    used_today: int | None
    weight: float = 1.0
    max_in_flight: int | None = None
    max_waiting: int | None = None
    tokens_per_day: int | None = None
    models: tuple[str, ...] | None = None
    max_priority: str = "high"


async def uses(caller: Caller) -> list[TenantUse]:
    """The default tenant first, the others by name. Raises what nats-py does."""
    control, default, others = await asyncio.gather(
        caller.js.stream_info(subjects.DELIBERATION_CONTROL, subjects_filter=subjects.schedule_of(">")),
        caller.js.stream_info(subjects.DELIBERATION_REQUESTS),
        request_streams(caller.nc),
    )
    schedules = subjects.schedule_of("")
    running = Counter(name_of(each.removeprefix(schedules)).tenant for each in control.state.subjects or ())
    used = await asyncio.gather(*(tokens_used_today(caller.js, tenant) for tenant in (DEFAULT_TENANT, *others)))
    streams = [
        (DEFAULT_TENANT, default.state.messages, default.config.metadata),
        *((tenant, each["state"]["messages"], each["config"].get("metadata")) for tenant, each in others.items()),
    ]
    return [
        TenantUse(
            tenant=tenant,
            waiting=waiting,
            in_flight=running[tenant],
            used_today=tokens if others else None,
            **structs.asdict(read_metadata(metadata or {}) or Tenant()),
        )
        for (tenant, waiting, metadata), tokens in zip(streams, used, strict=True)
    ]
