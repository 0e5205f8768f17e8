"""Notices that Ray drains the node of this process, as it does when the node is told to end."""

import threading
import time
from collections.abc import Callable

import ray
import structlog

from workers.ray_pool.quirks import ControlService

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0
ANSWER_WITHIN_S = 2.0


def watch(on_drain: Callable[[], None]) -> None:
    """Calls `on_drain` once, on a thread of its own."""
    threading.Thread(target=_watch, args=(on_drain,), name="node drain", daemon=True).start()


def _watch(on_drain: Callable[[], None]) -> None:
    context = ray.get_runtime_context()
    node, control = context.get_node_id(), ControlService(context.gcs_address)
    while True:
        try:
            if control.is_draining(node, ANSWER_WITHIN_S):
                break
        except Exception as error:  # Ray's control plane is away: its supervisor sees to that
            log.debug("node.not_looked_at", error=type(error).__name__)
        time.sleep(LOOK_EVERY_S)
    log.info("node.drains", node=node)
    on_drain()
