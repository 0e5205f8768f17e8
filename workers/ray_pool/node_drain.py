"""Notices that Ray drains the node of this process, as it does when the node is told to end."""

import threading
import time
from collections.abc import Callable

import ray
import structlog
from ray._raylet import GcsClient  # type: ignore[attr-defined]

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0
ANSWER_WITHIN_S = 2.0


def watch(on_drain: Callable[[], None]) -> None:
    """Calls `on_drain` once, on a thread of its own."""
    threading.Thread(target=_watch, args=(on_drain,), name="node drain", daemon=True).start()


def _watch(on_drain: Callable[[], None]) -> None:
    context = ray.get_runtime_context()
    node, address = context.get_node_id(), context.gcs_address
    client = GcsClient(address=address)
    while True:
        try:
            if node in client.get_draining_nodes(timeout=ANSWER_WITHIN_S):
                break
        except Exception as error:  # Ray's control plane is away: its supervisor sees to that
            log.debug("node.not_looked_at", error=type(error).__name__)
        time.sleep(LOOK_EVERY_S)
    log.info("node.drains", node=node)
    on_drain()
