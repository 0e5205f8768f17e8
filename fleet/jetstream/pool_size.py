"""Reads how many workers there should be: one value that all dispatchers follow."""

from typing import Any

from fleet import subjects
from fleet.messages import UNDECODABLE, decode
from fleet.messages.workers import PoolSize

WITHIN_S = 2.0


async def look(nc: Any) -> tuple[PoolSize | None, int]:
    """The decision and its revision. None: there is none, it is older than a minute, or it cannot be read. Raises what
    NATS does."""
    question = f"$JS.API.DIRECT.GET.{subjects.WORKERS_STREAM}.{subjects.POOL}"
    reply = await nc.request(question, b"", timeout=WITHIN_S)
    headers = reply.headers or {}
    if "Status" in headers:
        return None, 0
    try:
        return decode(reply.data, PoolSize), int(headers["Nats-Sequence"])
    except (*UNDECODABLE, KeyError):  # of another version: it is decided anew
        return None, int(headers.get("Nats-Sequence", 0))
