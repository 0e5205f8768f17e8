"""Names the parts of the fleet that faults may touch."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from nats.aio.client import Client

from fleet.chaos.cluster import Cluster
from fleet.chaos.recorder import Recorder
from fleet.jetstream.connection import OUTAGES
from fleet.observability.retries import again

T = TypeVar("T")

PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Target:
    """`own` is None for somebody else's cluster: then there is only a connection to its NATS."""

    nc: Client
    recorder: Recorder
    own: Cluster | None = None

    @property
    def cluster(self) -> Cluster:
        assert self.own is not None, "only done to a cluster of one's own"
        return self.own


async def until_done(step: Callable[[], Awaitable[T]], within_s: float = 60.0) -> T:
    """Tries again while NATS is down: what was broken on purpose must not stay so. Raises the last error in the end."""
    async with asyncio.timeout(within_s):
        return await again("chaos.step", step, on=OUTAGES, first_s=PAUSE_S, longest_s=PAUSE_S)
