"""Asks the fleet at a steady pace, one client on each NATS server, and counts how each question ended."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from fleet.client import connect
from fleet.client.fleet import Fleet
from fleet.messages import DeliberationCompleted
from tests.nodes.cluster import NATS, Cluster
from tests.support.client import ends
from tests.support.waiting import until

PAUSE_S = 1.0
"""Between two questions of one client."""
ANSWERED_WITHIN_S = 180.0
"""More than a deliberation may take with all that happens to it here."""
COUNTED_WITHIN_S = 30.0
TRIES = 50


class Asking:
    """`answered`: task id -> seconds until a council that was whole had answered. `lost`: what came instead."""

    def __init__(self) -> None:
        self.answered: dict[str, float] = {}
        self.lost: dict[str, str] = {}
        self._stopped = asyncio.Event()

    async def loop(self, name: str, fleet: Fleet) -> None:
        """A question each second, whatever becomes of the others; returns when it is told to, and all have ended."""
        async with asyncio.TaskGroup() as questions:
            for number in itertools.count():
                questions.create_task(self._ask(f"{name}-{number}", fleet))
                with suppress(TimeoutError):
                    async with asyncio.timeout(PAUSE_S):
                        await self._stopped.wait()
                    return

    def stop(self) -> None:
        """Asks nothing more; what is open goes on."""
        self._stopped.set()

    async def ended(self, count: int) -> None:
        """Waits until so many more questions have."""
        before = len(self.answered) + len(self.lost)
        await until(lambda: len(self.answered) + len(self.lost) >= before + count, ANSWERED_WITHIN_S)

    async def _ask(self, task_id: str, fleet: Fleet) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(ANSWERED_WITHIN_S):
                result = await fleet.ask("Design a rate limiter", task_id=task_id, agents=2, rounds=0)
        except Exception as error:  # whatever reaches a caller
            self.lost[task_id] = f"after {time.monotonic() - began:.0f} s: {type(error).__name__}: {error}"
            return
        if isinstance(result, DeliberationCompleted) and not result.degraded:
            self.answered[task_id] = time.monotonic() - began
        else:
            self.lost[task_id] = str(result)[:1000]


@asynccontextmanager
async def asking(cluster: Cluster, name: str) -> AsyncIterator[Asking]:
    """Inside, questions are asked; what is open at the end is waited for."""
    asked = Asking()
    async with AsyncExitStack() as stack:
        loops = []
        for server in NATS:
            fleet = await stack.enter_async_context(connected_to(cluster, server))
            loops.append(asyncio.create_task(asked.loop(f"{name}-{server}", fleet)))
        try:
            yield asked
        finally:
            asked.stop()
            await asyncio.gather(*loops)


@asynccontextmanager
async def connected_to(cluster: Cluster, server: str) -> AsyncIterator[Fleet]:
    """A client that knows all servers, and is on this one for now: it chooses by chance."""
    for _ in range(TRIES):
        async with connect(cluster.url()) as fleet:
            url = fleet.nc.connected_url
            if url is not None and url.hostname == cluster.machines[server].address:
                yield fleet
                return
    raise AssertionError(f"none of {TRIES} clients is on {server}")


async def counted_ends(cluster: Cluster, tasks: Collection[str]) -> dict[str, int]:
    """Task -> how many terminal events the stream holds of it. The replica that is read may lack the last ones yet."""
    counted: Counter[str] = Counter()

    async def are_there() -> bool:
        nonlocal counted
        counted = await ends.count(cluster.url("operator"))
        return all(counted[task] for task in tasks)

    with suppress(TimeoutError):
        await until(are_there, COUNTED_WITHIN_S, pause_s=1)
    return {task: counted[task] for task in tasks}
