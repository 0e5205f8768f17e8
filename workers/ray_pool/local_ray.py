"""Starts and ends a local Ray head inside this process."""

import asyncio
import os

import ray

from workers.ray_pool.actors import end, list_names
from workers.ray_pool.control_plane import disable_usage_reports
from workers.ray_pool.names import NAMESPACE

OBJECT_STORE_BYTES = 80 * 1024 * 1024


def start_local(temp_dir: str) -> str:
    """Starts a Ray head that ends with this process; returns its address. Blocks for some seconds."""
    disable_usage_reports()
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


async def stop_local() -> None:
    """Drains every worker of the Ray head that `start_local` started, and ends it."""
    await asyncio.gather(*(end(name) for name in await list_names()), return_exceptions=True)
    await asyncio.to_thread(ray.shutdown)
