"""Runs the Ray of a local fleet as a process of its own: `python -m fleet.local.ray_head DATA_DIR PORT`.

Ray ends a process whose control service is away for a minute, so the supervisor must not be one. What is started here
is watched by `ray_watch`: when a part is gone everything of this Ray is ended, and the supervisor starts it again on
the same port.
"""

import os
import secrets
import signal
import sys
from pathlib import Path

from fleet.errors import FleetError
from fleet.local import ray_watch
from fleet.local.ray_remains import end_remains, make_temp_dir
from fleet.local.signals import STOPS
from workers.ray_pool.names import LOCAL_RAY

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""For Ray, and for whoever joins it: `127.0.0.1` is this node's address, and not to be replaced by one that others can
reach."""
QUIET = {
    "METRICS_RECORD_INTERVAL_S": "60",
    "RAY_DASHBOARD_AGENT_CHECK_PARENT_INTERVAL_S": "5",
    "RAY_core_worker_internal_heartbeat_ms": "5000",
    "RAY_debug_dump_period_milliseconds": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_free_objects_period_milliseconds": "10000",
    "RAY_gcs_pull_resource_loads_period_milliseconds": "10000",
    "RAY_grpc_client_check_connection_status_interval_milliseconds": "5000",
    "RAY_io_context_event_loop_lag_collection_interval_ms": "60000",
    "RAY_io_context_monitor_probe_interval_ms": "10000",
    "RAY_kill_idle_workers_interval_ms": "5000",
    "RAY_local_fs_monitor_interval_ms": "10000",
    "RAY_memory_monitor_refresh_ms": "2000",
    "RAY_metrics_report_interval_ms": "60000",
    "RAY_num_workers_soft_limit": "0",
    "RAY_object_manager_rpc_threads_num": "1",
    "RAY_object_manager_timer_freq_ms": "5000",
    "RAY_raylet_check_gc_period_milliseconds": "5000",
    "RAY_raylet_liveness_self_check_interval_ms": "30000",
    "RAY_raylet_report_resources_period_milliseconds": "1000",
    "RAY_report_worker_backlog_interval_ms": "10000",
    "RAY_task_events_report_interval_ms": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
}
"""Ray's own reports, its looks at objects that there are none of, and processes that it keeps for tasks that never come
cost more when nothing happens than the whole fleet. What is set in the environment wins."""


def credentials(data_dir: Path) -> dict[str, str]:
    """For the environment of whoever joins this Ray. Without its token any user of this machine could run code here."""
    token = data_dir / "ray-token"
    if not token.exists():
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token.read_text(), **LOOPBACK}


def main(data_dir: Path, port: int) -> None:
    """Does not return: this process goes on as `ray_watch`."""
    from setproctitle import setproctitle

    from fleet.observability.logs import configure_logging

    asked = _asked_to_end()
    setproctitle("fleet-ray")
    configure_logging("ray")
    end_remains(data_dir)
    os.environ[LOCAL_RAY] = str(data_dir.absolute())
    os.environ["RAY_GCS_SERVER_PORT"] = str(port)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.update(credentials(data_dir))
    try:
        address, parts = _start(make_temp_dir(data_dir))
    except FleetError as error:
        end_remains(data_dir)
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        os._exit(1)  # not politely: Ray would wait for what is gone
    signal.pthread_sigmask(signal.SIG_BLOCK, ray_watch.SIGNALS)
    for number in asked:
        os.kill(os.getpid(), number)
    arguments = [str(data_dir), address, *map(str, parts)]
    if sys.platform == "linux":
        os.execv(sys.executable, [sys.executable, "-m", "fleet.local.ray_watch", *arguments])
    ray_watch.main(*arguments)  # elsewhere Ray's parts end with a pipe that this program holds


def _asked_to_end() -> list[int]:
    """SIGINT and SIGTERM that have come, from now on. They are not blocked: Ray's parts would inherit that."""
    asked: list[int] = []
    for number in STOPS:
        signal.signal(number, lambda number, _: asked.append(number))
    return asked


def _start(temp_dir: str) -> tuple[str, list[int]]:
    from workers.ray_pool.local_ray import start_local

    try:
        return start_local(temp_dir)
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise FleetError(f"no local Ray could be started: {first} (or set RAY_ADDRESS to one that runs)") from error


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
