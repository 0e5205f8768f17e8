"""Owns the background tasks of a worker: the death of a loop ends the worker, that of a single step is logged."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from fleet.event_loop import end, log_failure

log = structlog.get_logger(__name__)

Task = asyncio.Task[None]


class BackgroundTasks:
    """`failed` is set when a loop has ended by an error that nobody foresaw: nothing does its work any more."""

    def __init__(self, failed: "asyncio.Future[None]") -> None:
        self._failed = failed
        self._open: set[Task] = set()

    def loop(self, name: str, work: Coroutine[Any, Any, None]) -> Task:
        """Runs until it is cancelled. The worker cannot go on without it."""
        task = self._start(name, work)
        task.add_done_callback(self._loop_ended)
        return task

    def step(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Something that ends by itself, and that others make good if it fails."""
        self._start(name, work).add_done_callback(log_failure)

    async def close(self) -> None:
        await end(*self._open)

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> Task:
        task = asyncio.create_task(work, name=name)
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        return task

    def _loop_ended(self, task: Task) -> None:
        if task.cancelled():
            return
        error = task.exception() or RuntimeError(f"{task.get_name()} ended, and should run for ever")
        if not self._failed.done():
            self._failed.set_exception(error)
            self._failed.exception()  # it is logged: asyncio need not say once more that nobody has read it
        log.critical("worker.background_task_failed", task=task.get_name(), exc_info=error)
