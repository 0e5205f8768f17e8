"""Starts and ends a local Ray head inside this process."""

import asyncio
import os
import sys
from typing import Any

import ray
from ray._private import ray_constants, services
from ray._private.node import Node

from workers.ray_pool import agent_stand_in
from workers.ray_pool.actors import end, list_names
from workers.ray_pool.control_plane import disable_usage_reports
from workers.ray_pool.names import NAMESPACE

AGENTS = (ray_constants.PROCESS_TYPE_DASHBOARD_AGENT, ray_constants.PROCESS_TYPE_RUNTIME_ENV_AGENT)
OBJECT_STORE_BYTES = 80 * 1024 * 1024


def start_local(temp_dir: str) -> str:
    """Starts a Ray head that ends with this process; returns its address. Blocks for some seconds."""
    disable_usage_reports()
    _leave_out_spare_parts()
    context = ray.init(
        "local",  # without it Ray joins whatever else runs, or ran, on this machine
        _node_ip_address="127.0.0.1",
        _temp_dir=temp_dir,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="warning",
        namespace=NAMESPACE,
        num_cpus=os.cpu_count(),
        object_store_memory=OBJECT_STORE_BYTES,
    )
    address: str = context.address_info["address"]
    return address


def _nothing(*_: Any, **__: Any) -> None:
    """Is started."""


def _leave_out_spare_parts() -> None:
    """Ray starts them whatever one says: a dashboard without pages, one that collects logs for drivers that want none,
    one that would ask a cloud for more nodes. A raylet insists on two agents: `agent_stand_in` waits in their place.
    """
    Node.start_api_server = Node.start_log_monitor = Node.start_monitor = _nothing
    usual = services._build_python_executable_command_memory_profileable

    def command(component: str, *more: Any, **options: Any) -> list[str]:
        """How the command of a part begins."""
        if component in AGENTS:
            return [sys.executable, "-IS", agent_stand_in.__file__]
        begin: list[str] = usual(component, *more, **options)
        return begin

    services._build_python_executable_command_memory_profileable = command


async def stop_local() -> None:
    """Drains every worker of the Ray head that `start_local` started, and ends it."""
    await asyncio.gather(*(end(name) for name in await list_names()), return_exceptions=True)
    await asyncio.to_thread(ray.shutdown)
