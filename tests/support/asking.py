"""Asks a fleet one question after the other, by the real `fleet ask`, while something is done to it."""

import json
import subprocess
import threading
from collections.abc import Callable
from types import TracebackType

ASKED_WITHIN_S = 300

COUNT_ENDS = """
import asyncio, collections, contextlib, json
from fleet.client import connect
from fleet.jetstream.history import events
from fleet.subjects import TERMINAL

async def main():
    ends = collections.Counter()
    async with connect() as fleet, contextlib.aclosing(events(fleet.js, TERMINAL, None)) as found:
        async for msg in found:
            ends[(msg.headers or {})["Task-Id"]] += 1
    print(json.dumps(ends))

asyncio.run(main())
"""
"""A program that prints how many terminal events the stream holds of each task."""


class Asking:
    """Inside it, questions are asked without a pause. `ask` runs `fleet ask --json` with the question."""

    def __init__(self, ask: Callable[[str], subprocess.CompletedProcess[str]], at_once: int = 2) -> None:
        self.answered: list[str] = []
        self.lost: list[str] = []
        self._ask = ask
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(at_once)]

    def __enter__(self) -> "Asking":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What has been asked is waited for."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            done = self._ask(f"Design rate limiter {number}.{len(self.answered)}")
            if done.returncode == 0:
                self.answered.append(json.loads(done.stdout)["task_id"])
            else:
                self.lost.append(f"exit {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
                return
