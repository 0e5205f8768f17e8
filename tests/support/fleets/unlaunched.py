"""Runs a dispatcher whose launching never ends, as on a cluster without room."""

import asyncio
import os

from fleet import config
from fleet.control import dispatcher
from fleet.event_loop import fast_loop
from fleet.local.signals import run_until_signalled
from fleet.local.testbed import NoWorkers
from fleet.observability import health
from fleet.observability.logs import configure_logging

STALE_S = 2.0
"""Above the second between two beats, and soon over."""


class NeverLaunched(NoWorkers):
    """Ray answers, no worker does."""

    async def start(self) -> None:
        await asyncio.Event().wait()

    def answering(self) -> int:
        return 0


if __name__ == "__main__":
    configure_logging("dispatcher")
    health.STALE_S = STALE_S
    running = dispatcher.run(config.load(os.environ), NeverLaunched(), on_ready=lambda: print("ready", flush=True))
    run_until_signalled(running, loop_factory=fast_loop)
