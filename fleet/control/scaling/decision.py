"""Writes how many workers there should be, unless somebody else has decided meanwhile."""

from nats.js import JetStreamContext

from fleet import subjects
from fleet.jetstream.compare_and_set import store_after
from fleet.messages import encode
from fleet.messages.workers import PoolSize

WITHIN_S = 2.0


async def decide(js: JetStreamContext, size: PoolSize, revision: int) -> bool:
    """Whether this decision counts: another one may have come before it. Raises what NATS does."""
    return await store_after(js, subjects.POOL, encode(size), revision, WITHIN_S) is not None
