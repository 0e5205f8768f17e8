"""Kills the process at a named point, to prove that nothing is lost there. Off, a point costs one check.

`FLEET_CRASH_AT=runner.saved:3` ends the process with SIGKILL when it reaches `runner.saved` for the third time. For
`fleet chaos` and tests alone: it is no setting, and read once per process.
"""

import os
import signal
from collections.abc import Mapping
from typing import Final

from fleet.errors import ConfigError

CONTROL_PLANE: Final = (
    "delivery.received",  # nothing done yet
    "runner.decided",  # the state is not saved
    "runner.saved",  # between KV commit and publish
    "outbox.stopped",  # calls told to stop, the terminal event not published
    "outbox.counted",  # what it used is counted for its tenant, the terminal event not published
    "outbox.concluded",  # terminal event stored, its deadline not taken back
    "runner.published",  # everything is out, nothing acknowledged
    "runner.acknowledged",
)
DISPATCHER: Final = (
    "dispatcher.connected",  # topology declared, nothing consumed, no worker launched
    "dispatcher.launched",  # workers are there, not yet ready
    "request.rejected",  # rejection published, request not yet buried
    "message.buried",  # kept as a dead letter, still on its stream
)
WORKER: Final = (
    "worker.taken",  # before the model is asked
    "worker.answered",  # the model has answered, nobody knows
    "worker.stored",  # response stored, call not acknowledged
    "worker.acknowledged",
)
POINTS: Final = (*CONTROL_PLANE, *DISPATCHER, *WORKER)
VARIABLE: Final = "FLEET_CRASH_AT"


class _CrashPoint:
    """One point, and how often it may still be reached."""

    def __init__(self, point: str, nth: int) -> None:
        self._point = point
        self._left = nth

    def reached(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


def parse(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """(point, how often it must be reached), or None when it is not set. Raises `ConfigError`."""
    setting = environ.get(VARIABLE)
    if not setting:
        return None
    point, _, nth = setting.partition(":")
    if point not in POINTS:
        raise ConfigError(f"{VARIABLE}: {point!r} is none of {', '.join(POINTS)}")
    if nth and not (nth.isdecimal() and int(nth) > 0):
        raise ConfigError(f"{VARIABLE}: expected NAME or NAME:NTH, got {setting!r}")
    return point, int(nth or 1)


_point = parse(os.environ)
_armed = _CrashPoint(*_point) if _point else None


def reach(point: str) -> None:
    """Ends the process if it was told to die here."""
    if _armed is not None:
        _armed.reached(point)
