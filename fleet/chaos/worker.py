"""Runs one worker without Ray, in a process of its own: there crash points are armed."""

import json
import os

from setproctitle import setproctitle

from fleet import config
from fleet.event_loop import fast_loop
from fleet.local.signals import run_until_signalled
from fleet.observability.logs import configure_logging
from workers.calls.worker import AgentWorker

NAME = "fleet-worker-chaos"
GRACE_S = 10.0


async def run() -> None:
    """Runs until cancelled, or until the worker can do nothing more. Raises what ended it."""
    async with AgentWorker.open(config.load(os.environ), NAME) as worker:
        try:
            print(json.dumps({"ready": True, "component": "worker"}), flush=True)
            await worker.ended
        finally:
            await worker.finish(GRACE_S)


if __name__ == "__main__":
    setproctitle("fleet-worker")
    configure_logging("worker")
    run_until_signalled(run(), loop_factory=fast_loop)
