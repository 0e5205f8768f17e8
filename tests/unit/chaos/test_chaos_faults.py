"""Faults of processes leave nothing behind that breaks something later."""

import subprocess
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fleet.chaos.faults import process
from fleet.chaos.faults.target import Target
from fleet.chaos.schedule import Fault


class Replica:
    """A process that is started again when it dies."""

    def __init__(self) -> None:
        self.armed: list[bool] = []
        self._next = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(["sleep", "60"])
            self.armed.append(self._next)
            self._next = False
        return self._process.pid

    def once(self, name: str, **more: str) -> "Replica":
        """The next one, and no other, has these variables."""
        self._next = bool(more)
        return self

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


async def test_a_crash_point_that_was_not_reached_does_not_stay_armed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever dies there after the fault is over would break what nothing on record explains."""
    monkeypatch.setattr(process, "REACHED_WITHIN_S", 0.2)
    replica = Replica()
    assert replica.pid
    target = cast(Target, SimpleNamespace(cluster=replica))
    fault: Any = SimpleNamespace(target="worker.answered", chance=0.4)
    try:
        said = await process.crash(target, cast(Fault, fault))
        assert "has not reached worker.answered:4" in said
        assert replica.armed == [False, True, False]
    finally:
        replica.end()
