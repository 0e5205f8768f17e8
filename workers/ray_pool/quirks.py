"""Holds every private part of Ray (2.60) that is used or replaced, with its reason."""

import sys
from typing import Any

from ray._private import ray_constants, services
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from workers.ray_pool import agent_stand_in

AGENTS = (ray_constants.PROCESS_TYPE_DASHBOARD_AGENT, ray_constants.PROCESS_TYPE_RUNTIME_ENV_AGENT)


class ControlService:
    """`ray.nodes()` does not say which nodes drain, and what does say it, `ray.util.state`, asks a dashboard."""

    def __init__(self, address: str) -> None:
        self._client = GcsClient(address=address)

    def is_draining(self, node_id: str, timeout_s: float) -> bool:
        """Blocks. Raises whatever Ray has for a control service that is away."""
        return node_id in self._client.get_draining_nodes(timeout=timeout_s)


def start_head(**params: Any) -> tuple[str, list[int]]:
    """What `ray.init("local")` starts, without joining it: returns its address, and the processes. Blocks for a second
    or two."""
    node = Node(RayParams(**params), head=True, shutdown_at_exit=False, ray_init_cluster=True)
    return node.gcs_address, [process.pid for _, process in node.live_processes()]


def leave_out_spare_parts() -> None:
    """Ray has no switch for what it starts: a dashboard without pages, one that collects logs for drivers that want
    none, one that would ask a cloud for more nodes. A raylet ends without two agents: `agent_stand_in` writes the files
    that it waits for, and waits in their place.
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
    _start_one_process_ahead()


def _start_one_process_ahead() -> None:
    """For an actor to come, while its launcher still joins. Ray would start one for each CPU, of 80 MB."""
    usual, option = services.start_ray_process, "--num_prestart_python_workers="

    def start(command: list[str], *more: Any, **options: Any) -> Any:
        return usual([f"{option}1" if part.startswith(option) else part for part in command], *more, **options)

    services.start_ray_process = start


def _nothing(*_: Any, **__: Any) -> None:
    """Starts nothing."""
