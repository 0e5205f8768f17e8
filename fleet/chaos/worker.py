"""One worker without Ray, in a process of its own: a second place where calls run, and where crash points are armed."""

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
    """Runs until cancelled, or until its connection is closed for good."""
    worker = AgentWorker(config.load(os.environ), NAME)
    await worker.start()
    try:
        print(json.dumps({"ready": True, "component": "worker"}), flush=True)
        await worker.closed.wait()
    finally:
        await worker.stop(GRACE_S)


if __name__ == "__main__":
    setproctitle("fleet-worker")
    configure_logging("worker")
    run_until_signalled(run(), loop_factory=fast_loop)
