"""Finds what belongs to the Ray of a local fleet, processes and files, to end and to delete it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from fleet.local.process_titles import is_a
from workers.ray_pool.names import LEAVE, LOCAL_RAY

LONGEST_TEMP_DIR = 18
"""Ray puts its sockets some 85 characters deeper than this, and a socket's path may have 107."""


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


def drain_workers(data_dir: Path, within_s: float) -> None:
    """Each finishes or hands back its calls, and ends. Returns once they have ended, or after `within_s`.

    Ray is not asked: to join it takes a second.
    """
    workers = [process for process in _remains(str(data_dir.absolute())) if is_a(process, "actor")]
    for worker in workers:
        with suppress(psutil.Error):
            worker.send_signal(LEAVE)
    psutil.wait_procs(workers, timeout=within_s)


def make_temp_dir(data_dir: Path) -> str:
    """For its owner alone. Noted, so that it can be deleted: Ray leaves everything there."""
    where = tempfile.gettempdir()
    made = tempfile.mkdtemp(prefix="fleet-ray-", dir=where if len(where) <= LONGEST_TEMP_DIR else "/tmp")
    _noted(data_dir).write_text(made)
    return f"{made}/ray"  # not `made` itself: Ray opens its directory to everybody


def _noted(data_dir: Path) -> Path:
    return data_dir / "ray-temp-dir"


def _remains(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(LOCAL_RAY) == mark:
                yield process
