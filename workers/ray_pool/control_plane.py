"""Joins a Ray cluster and watches its control plane: the control service, and the raylet of this node."""

import asyncio
import os

import ray
import structlog

from fleet.errors import Unreachable
from workers.ray_pool.names import NAMESPACE

log = structlog.get_logger(__name__)

PROBE_INTERVAL_S = 3.0
PROBE_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0
LOST_AFTER = 2
"""Failed probes of Ray's control plane in a row."""


class ControlPlane:
    """Of the cluster at `address`: `host:port`, `ray://…`, or None for the one that Ray finds on this machine."""

    def __init__(self, address: str | None) -> None:
        self._address = address

    async def join(self) -> None:
        """Joins the cluster. Raises `Unreachable`."""
        await self._reach_control_service()  # Ray itself would take a minute to say no
        disable_usage_reports()
        await asyncio.to_thread(
            ray.init,
            address=self._address or "auto",
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level="warning",
        )

    async def leave(self) -> None:
        """Leaves the cluster; the actors stay."""
        await asyncio.to_thread(ray.shutdown)

    async def watch(self) -> None:
        """Runs until the control plane is lost, then raises `Unreachable`.

        Actors work on without it, but nothing is started again. `ray.is_initialized()` stays true.
        """
        failures = 0
        while failures < LOST_AFTER:
            await asyncio.sleep(PROBE_INTERVAL_S)
            try:
                await self._probe()
                failures = 0
            except (ray.exceptions.RayError, Unreachable, TimeoutError) as error:
                failures += 1
                log.error("ray.probe_failed", failures=failures, error=f"{type(error).__name__}: {error}")
        raise Unreachable("Ray's control plane does not answer any more")

    async def _probe(self) -> None:
        await self._reach_control_service()
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            nodes = await asyncio.to_thread(ray.nodes)
        own_id = ray.get_runtime_context().get_node_id()
        own = next((node for node in nodes if node["NodeID"] == own_id), None)
        if own is None or not own["Alive"]:
            raise Unreachable("the raylet of this node is dead")
        await _reach("the raylet of this node", own["NodeManagerAddress"], own["NodeManagerPort"])

    async def _reach_control_service(self) -> None:
        host, _, port = (self._address or "").rpartition(":")
        if host and "/" not in host:  # neither `auto` nor `ray://…`
            await _reach("Ray's control service", host, port)


def disable_usage_reports() -> None:
    """Ray would report to its makers, and warn of accelerators that are not there."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


async def _reach(what: str, host: str, port: str | int) -> None:
    """Raises `Unreachable` where nobody listens."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, int(port))
    except (OSError, TimeoutError, ValueError) as error:
        raise Unreachable(f"{what} does not answer at {host}:{port} ({error or type(error).__name__})") from None
    writer.close()
