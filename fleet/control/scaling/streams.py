"""Counts what waits in streams: requests that no dispatcher has recorded, and calls that no worker has answered."""

import asyncio
from collections.abc import Collection
from datetime import datetime
from typing import Any

from fleet import subjects
from fleet.messages import Message, decode
from fleet.tenants.names import DEFAULT_TENANT, requests_of

REQUEST_TIMEOUT_S = 5.0


class StreamState(Message, frozen=True):
    """Of a stream, the part that nats-py leaves out among it."""

    messages: int
    first_ts: datetime


class StreamInfo(Message, frozen=True):
    """`ts`: when NATS said it, by the clock that `first_ts` is of."""

    state: StreamState
    ts: datetime

    @property
    def oldest_s(self) -> float:
        """How long the first message has been there; 0 without one."""
        return max(0.0, (self.ts - self.state.first_ts).total_seconds()) if self.state.messages else 0.0


async def request_streams(nc: Any, tenants: Collection[str]) -> dict[str, StreamInfo]:
    """By tenant, the default one among them. Raises what NATS does."""
    names = (DEFAULT_TENANT, *tenants)
    infos = await asyncio.gather(*(_info(nc, requests_of(tenant)) for tenant in names))
    return dict(zip(names, infos, strict=True))


async def waiting_requests(nc: Any, tenants: Collection[str]) -> dict[str, int]:
    """How many, by tenant."""
    return {tenant: info.state.messages for tenant, info in (await request_streams(nc, tenants)).items()}


async def open_calls(nc: Any) -> int:
    """Calls that wait or are being made."""
    return (await _info(nc, subjects.AGENT_REQUESTS)).state.messages


async def _info(nc: Any, stream: str) -> StreamInfo:
    reply = await nc.request(f"$JS.API.STREAM.INFO.{stream}", timeout=REQUEST_TIMEOUT_S)
    return decode(reply.data, StreamInfo)
