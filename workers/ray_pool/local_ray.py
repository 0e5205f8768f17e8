"""Starts a local Ray head."""

import os

from workers.ray_pool.control_plane import disable_usage_reports
from workers.ray_pool.quirks import leave_out_spare_parts, start_head

OBJECT_STORE_BYTES = 80 * 1024 * 1024


def start_local(temp_dir: str) -> tuple[str, list[int]]:
    """Starts a Ray head whose processes are children of this one, and are killed when it ends. Returns its address, and
    their pids. Blocks for a second or two."""
    disable_usage_reports()
    leave_out_spare_parts()
    return start_head(
        node_ip_address="127.0.0.1",
        temp_dir=temp_dir,
        include_dashboard=False,
        num_cpus=os.cpu_count(),
        object_store_memory=OBJECT_STORE_BYTES,
    )
