"""Starts components in processes of their own, that can be ended in every way."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from fleet.config import unconfigured

READY_WITHIN_S = 60
ENDED_WITHIN_S = 30
COMMANDS = {
    "dispatcher": ("-m", "tests.support.fleets.dispatcher"),
    "collector": ("-m", "fleet.cli", "collector"),
    "worker": ("-m", "fleet.chaos.worker"),
}


class Component:
    """One dispatcher (whose workers are somewhere else), collector, or worker (without Ray)."""

    def __init__(self, kind: str, log: Path, **environ: str) -> None:
        self.kind = kind
        self.log = log
        self._environ = environ
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        """Of its latest process."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Returns once it is ready."""
        with self.log.open("ab") as log:
            self._process = process = await asyncio.create_subprocess_exec(
                sys.executable,
                *COMMANDS[self.kind],
                stdout=PIPE,
                stderr=log,
                env={**unconfigured(os.environ), "FLEET_LOG": "json", **self._environ},
            )
        assert process.stdout is not None
        async with asyncio.timeout(READY_WITHIN_S):
            line = await process.stdout.readline()
        assert line, f"{self.kind} ended before it was ready:\n{self.log.read_text()[-4000:]}"
        assert json.loads(line)["ready"]

    async def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Signals it, and returns its exit status; 0 at once for one that does not run."""
        if self._process is None or self._process.returncode is not None:
            return 0
        self._process.send_signal(how)
        async with asyncio.timeout(ENDED_WITHIN_S):
            return await self._process.wait()

    async def drained(self) -> None:
        """Ends it by SIGTERM, which it must obey in good order."""
        status = await self.end()
        assert status == 0, f"{self.kind} exited {status}:\n{self.log.read_text()[-6000:]}"

    def lines(self) -> list[dict[str, object]]:
        """What it has logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
