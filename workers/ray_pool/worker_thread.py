"""Runs a worker on an event loop in a thread of its own, for a caller that blocks, as the methods of a Ray actor do."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import structlog

from fleet.config import Settings
from fleet.errors import Unreachable
from fleet.event_loop import fast_loop, settle
from fleet.messages.workers import WorkerStatus
from workers.calls.worker import AgentWorker

log = structlog.get_logger(__name__)

T = TypeVar("T")

START_WITHIN_S, ANSWER_WITHIN_S = 25.0, 4.0


class WorkerThread:
    """All methods block until it is done. They raise what the worker raises, and TimeoutError.

    `on_failure` is called on the thread when the worker can do nothing more because of a defect of its own.
    """

    def __init__(self, settings: Settings, name: str, *, on_failure: Callable[[], None]) -> None:
        self._settings = settings
        self._name = name
        self._on_failure = on_failure
        self._loop = fast_loop()
        threading.Thread(target=self._loop.run_forever, name="worker", daemon=True).start()
        self._running: tuple[AgentWorker, AsyncExitStack] | None = None
        self._ending = False

    @property
    def worker(self) -> AgentWorker | None:
        """The worker that runs now."""
        return self._running[0] if self._running else None

    def status(self) -> WorkerStatus:
        """Of the worker, which is started if it does not run, or has lost its connection for good."""
        if self._ending:
            raise Unreachable("this worker ends with its node")
        if self.worker is not None and self.worker.ended.done():
            log.error("worker.connection_closed", worker=self._name, action="it is started again")
            self.stop(0.0)
        if self.worker is None:
            self._run(self._start(), START_WITHIN_S)
        return self._run(self._status(), ANSWER_WITHIN_S)

    def retire(self, retired: bool) -> int:
        """The worker takes nothing new, or takes calls again; returns how many are open."""
        return self._run(self._retire(retired), START_WITHIN_S)

    def end(self, grace_s: float) -> None:
        """As `stop`, and no other one is started."""
        self._ending = True
        self.stop(grace_s)

    def stop(self, grace_s: float) -> None:
        """Takes nothing new, finishes or hands back what is open."""
        running, self._running = self._running, None
        if running is not None:
            self._run(self._stop(*running, grace_s))

    async def _start(self) -> None:
        async with AsyncExitStack() as stack:
            worker = await stack.enter_async_context(AgentWorker.open(self._settings, self._name))
            worker.ended.add_done_callback(self._on_end)
            self._running = worker, stack.pop_all()  # here: one that is ready as the time is over is not lost
        settle()

    async def _stop(self, worker: AgentWorker, stack: AsyncExitStack, grace_s: float) -> None:
        async with stack:
            await worker.finish(grace_s)

    async def _retire(self, retired: bool) -> int:
        if self.worker is None:
            return 0
        return await self.worker.retire(retired)

    async def _status(self) -> WorkerStatus:
        assert self.worker is not None
        return self.worker.status()  # on its own loop: one that is stuck does not answer

    def _on_end(self, ended: "asyncio.Future[None]") -> None:
        if not ended.cancelled() and ended.exception() is not None:
            self._on_failure()

    def _run(self, work: Coroutine[Any, Any, T], within_s: float | None = None) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(within_s)
        except TimeoutError:
            future.cancel()
            raise
