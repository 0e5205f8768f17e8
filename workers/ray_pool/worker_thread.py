"""A worker in a process whose main thread does something else: blocks, as the methods of a Ray actor do."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

from fleet.config import Settings
from fleet.event_loop import fast_loop
from workers.calls.worker import AgentWorker, WorkerStatus

log = structlog.get_logger(__name__)

T = TypeVar("T")

START_WITHIN_S, ANSWER_WITHIN_S = 25.0, 4.0


class Host:
    """Runs one `AgentWorker` on an event loop in a thread of its own.

    All methods block until it is done. They raise what the worker raises, and TimeoutError.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._loop = fast_loop()
        threading.Thread(target=self._loop.run_forever, name="worker", daemon=True).start()
        self._worker: AgentWorker | None = None

    def status(self) -> WorkerStatus:
        """Of the worker, which is started if it does not run, or has lost its connection for good."""
        if self._worker is not None and self._worker.closed.is_set():
            log.error("worker.closed", worker=self._name, action="starting it again")
            self.stop(0.0)
        if self._worker is None:
            self._run(self._start(), START_WITHIN_S)
        return self._run(self._ask(), ANSWER_WITHIN_S)

    def stop(self, grace_s: float) -> None:
        """Takes nothing new, finishes or hands back what is open."""
        worker, self._worker = self._worker, None
        if worker is not None:
            self._run(worker.stop(grace_s))

    async def _start(self) -> None:
        worker = AgentWorker(self._settings, self._name)
        await worker.start()
        self._worker = worker  # here: one that is ready as the time is over is not lost

    async def _ask(self) -> WorkerStatus:
        assert self._worker is not None
        return self._worker.status()  # on its own loop: one that is stuck does not answer

    def _run(self, work: Coroutine[Any, Any, T], within_s: float | None = None) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(within_s)
        except TimeoutError:
            future.cancel()
            raise


class Pauses:
    """One pause for several watchers who take turns: together they wait for as long as one would alone."""

    def __init__(self, forget_after_s: float) -> None:
        self._forget_after_s = forget_after_s
        self._seen: dict[str, float] = {}

    def share_s(self, watcher: str, pause_s: float, now: float) -> float:
        """How long this one waits. `now` in seconds of any clock."""
        self._seen[watcher] = now
        self._seen = {name: at for name, at in self._seen.items() if now - at < self._forget_after_s}
        return pause_s / len(self._seen)
