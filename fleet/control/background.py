"""Runs tasks as long as their component runs: one that ends by itself ends the component, with its reason."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from fleet.errors import FleetError
from fleet.event_loop import end

log = structlog.get_logger(__name__)


class Background:
    """The tasks of one component."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failure: BaseException | None = None
        self._failed = asyncio.Event()

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work`, which must not end before `stop`."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks[name] = task

    async def run(self, first: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Does `first`, and goes on until cancelled. Raises the error of `first`, or of the first task that ends."""
        starting = asyncio.create_task(first())
        failing = asyncio.create_task(self._failed.wait())
        try:
            await asyncio.wait({starting, failing}, return_when=asyncio.FIRST_COMPLETED)
            if not failing.done():
                await starting
                await self._failed.wait()
        finally:
            failing.cancel()
            await end(starting)
        if self._failure is not None:
            raise self._failure

    async def stop(self, *names: str) -> None:
        """Ends those tasks, or all."""
        tasks = [self._tasks.pop(name) for name in names or [*self._tasks] if name in self._tasks]
        await end(*tasks)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._tasks.get(task.get_name()) is not task or self._failure is not None:
            return
        self._failure = error or FleetError(f"{task.get_name()} has ended by itself")
        log.error("background.ended", task=task.get_name(), error=repr(self._failure))
        self._failed.set()
