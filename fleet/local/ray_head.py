"""Runs the Ray of a local fleet as a process of its own: `python -m fleet.local.ray_head DATA_DIR PORT`.

Ray ends a process whose control service is away for a minute, so the supervisor must not be one. Here its parts are
watched; when one is gone everything of this Ray is ended, and the supervisor starts it again on the same port.
"""

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from fleet.errors import FleetError

MARK = "FLEET_RAY_OF"
"""In the environment of every process of a local Ray: the fleet's data directory."""
PARTS = ("gcs_server", "raylet")
LOOK_EVERY_S = 1.0
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""For Ray, and for whoever joins it: `127.0.0.1` is this node's address, and not to be replaced by one that others can
reach."""
LONGEST_TEMP_DIR = 18
"""Ray puts its sockets some 85 characters deeper than this, and a socket's path may have 107."""
QUIET = {
    "METRICS_RECORD_INTERVAL_S": "60",
    "RAY_DASHBOARD_AGENT_CHECK_PARENT_INTERVAL_S": "5",
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_gcs_pull_resource_loads_period_milliseconds": "10000",
    "RAY_io_context_monitor_probe_interval_ms": "10000",
    "RAY_kill_idle_workers_interval_ms": "5000",
    "RAY_local_fs_monitor_interval_ms": "10000",
    "RAY_memory_monitor_refresh_ms": "2000",
    "RAY_metrics_report_interval_ms": "60000",
    "RAY_num_workers_soft_limit": "0",
    "RAY_object_manager_timer_freq_ms": "5000",
    "RAY_raylet_check_gc_period_milliseconds": "5000",
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


def end_remains(data_dir: Path) -> None:
    """Kills what is left of a Ray of this fleet: actors outlive their raylet, and would work on unseen. And deletes its
    temporary directory."""
    remains = list(_remains(str(data_dir.absolute())))
    for process in remains:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(remains, timeout=2)
    with suppress(OSError):
        shutil.rmtree(_noted(data_dir).read_text(), ignore_errors=True)
        _noted(data_dir).unlink()


def _make_temp_dir(data_dir: Path) -> str:
    """For its owner alone. Noted, so that it can be deleted: Ray leaves everything there."""
    where = tempfile.gettempdir()
    made = tempfile.mkdtemp(prefix="fleet-ray-", dir=where if len(where) <= LONGEST_TEMP_DIR else "/tmp")
    _noted(data_dir).write_text(made)
    return f"{made}/ray"  # not `made` itself: Ray opens its directory to everybody


def _noted(data_dir: Path) -> Path:
    return data_dir / "ray-temp-dir"


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _remains(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                yield process


def main(data_dir: Path, port: int) -> None:
    from setproctitle import setproctitle

    from fleet.local.signals import run_until_signalled
    from fleet.observability.logs import configure_logging

    setproctitle("fleet-ray")
    configure_logging("ray")
    end_remains(data_dir)
    os.environ[MARK] = str(data_dir.absolute())
    os.environ["RAY_GCS_SERVER_PORT"] = str(port)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.update(credentials(data_dir))
    try:
        run_until_signalled(_serve(_make_temp_dir(data_dir)))
    except FleetError as error:
        end_remains(data_dir)
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        os._exit(1)  # not politely: Ray would wait for what is gone


async def _serve(temp_dir: str) -> None:
    from fleet.local.signals import reclaim
    from workers.ray_pool.local_ray import start_local, stop_local

    try:
        address = start_local(temp_dir)
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise FleetError(f"no local Ray could be started: {first} (or set RAY_ADDRESS to one that runs)") from error
    reclaim()
    parts = [part for part in psutil.Process().children(recursive=True) if part.name() in PARTS]
    print(address, flush=True)
    try:
        while all(_runs(part) for part in parts):  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(LOOK_EVERY_S)
    except asyncio.CancelledError:
        await stop_local()
        raise
    raise FleetError("a part of Ray has died")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
