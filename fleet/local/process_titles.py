"""Names the fleet's processes, and tells by its name what a process is."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final

import psutil

TITLES: Final[Mapping[str, tuple[str, ...]]] = {
    "dispatcher": ("fleet-dispatcher",),
    "collector": ("fleet-collector",),
    "actor": ("ray::WorkerActor",),
    "raylet": ("raylet",),
    "gcs": ("gcs_server",),
    "launcher": ("fleet-launcher",),
    "nats": ("nats-server",),
}
"""Kind -> how its command begins."""
RAY: Final = "ray"
STAND_IN: Final = "agent_stand_in"
OTHER: Final = "other"


def descendants() -> Iterator[psutil.Process]:
    """Everything this process has started, directly or not, that still runs."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process


def is_a(process: psutil.Process, kind: str) -> bool:
    """Whether it is one of these; False for one that is gone."""
    return _begins(_command(process), TITLES[kind])


def kind_of(process: psutil.Process) -> str:
    """One of `TITLES`, `ray` for what else belongs to Ray, `other` for the rest."""
    command = _command(process)
    for kind, titles in TITLES.items():
        if _begins(command, titles):
            return kind
    is_ray = any(part.startswith(("ray::", "fleet-ray")) or "/ray/" in part or STAND_IN in part for part in command[:3])
    return RAY if is_ray else OTHER


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _begins(command: list[str], titles: tuple[str, ...]) -> bool:
    return bool(command) and command[0].rpartition("/")[2].startswith(titles)
