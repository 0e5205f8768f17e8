"""Runs a dispatcher in a process of its own, without Ray: its workers are started by the test."""

import json
import os

from fleet import config
from fleet.control import dispatcher
from fleet.event_loop import fast_loop
from fleet.local.signals import run_until_signalled
from fleet.local.testbed import NoWorkers
from fleet.observability.logs import configure_logging


def ready() -> None:
    print(json.dumps({"ready": True, "component": "dispatcher"}), flush=True)


if __name__ == "__main__":
    configure_logging("dispatcher")
    running = dispatcher.run(config.load(os.environ), NoWorkers(), on_ready=ready)
    run_until_signalled(running, loop_factory=fast_loop)
