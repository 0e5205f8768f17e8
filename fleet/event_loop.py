"""Makes the event loop that everything runs on; shares work, ends tasks, and logs those that fail."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, TypeVar

from fleet.logger import Logger

log = Logger(__name__)

CANCEL_TRIES, CANCEL_PAUSE_S = 5, 0.5
GARBAGE_AFTER, OLDER_AFTER = 20_000, 20
"""New objects until those without a reference from outside are looked for, and so many looks until one at the older."""


def fast_loop() -> asyncio.AbstractEventLoop:
    """uvloop where there is one. Of what nobody awaits any more it reports errors, and no cancellations."""
    try:
        import uvloop
    except ImportError:
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    loop.set_exception_handler(_report)
    return loop


def settle() -> None:
    """To be called once a process is ready. Python's look for cycles cost up to a third of a busy process: what is
    there by now stays, and is not looked at again; what comes is looked at less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER, OLDER_AFTER, OLDER_AFTER)


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """nats-py leaves a cancelled `gather` behind when a connection is closed before it has drained."""
    if not isinstance(context.get("exception"), asyncio.CancelledError):
        loop.default_exception_handler(context)


async def all_of(works: Iterable[Awaitable[Any]], at_once: int = 64) -> None:
    """Waits for all, `at_once` at a time: a generator makes each when it is its turn. Then raises the first error."""
    waiting, errors = iter(works), list[Exception]()

    async def in_turn() -> None:
        for work in waiting:
            try:
                await work
            except Exception as error:
                errors.append(error)

    await asyncio.gather(*(in_turn() for _ in range(at_once)))
    if errors:
        raise errors[0]


Result = TypeVar("Result")


class SharedWork(Generic[Result]):
    """Work that is done once for all who ask before it begins, one at a time, with a pause in between."""

    def __init__(self, work: Callable[[], Awaitable[Result]], pause_s: float = 0.0) -> None:
        self._work = work
        self._pause_s = pause_s
        self._running = asyncio.Lock()
        self._next: asyncio.Task[Result] | None = None
        self._ended_at = float("-inf")

    async def result(self) -> Result:
        """Raises what the work does. Who is cancelled does not cancel it for the others."""
        if self._next is None:
            self._next = asyncio.create_task(self._run())
            self._next.add_done_callback(_retrieve)
        return await asyncio.shield(self._next)

    async def _run(self) -> Result:
        async with self._running:
            await asyncio.sleep(self._ended_at + self._pause_s - time.monotonic())
            self._next = None
            try:
                return await self._work()
            finally:
                self._ended_at = time.monotonic()


def _retrieve(work: asyncio.Task[Any]) -> None:
    """Whoever waited for it may have gone away."""
    if not work.cancelled():
        work.exception()


async def end(*tasks: asyncio.Task[Any], pause_s: float = CANCEL_PAUSE_S) -> None:
    """Cancels the tasks, and returns once they have ended, or after five times `pause_s`.

    One that goes on is cancelled again: nats-py may take a cancellation for the end of its own time, and go on, and on
    Python 3.11 `asyncio.wait_for` drops one that comes together with the result. `pause_s` is longer than what a task
    needs to clean up.
    """
    for _ in range(CANCEL_TRIES):
        left = [task for task in tasks if not task.done()]
        if not left:
            break
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=pause_s)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # else asyncio says that nobody has read it


def log_failure(task: asyncio.Task[Any]) -> None:
    """Callback of a task that nobody awaits: an error that it did not expect is in the log at once."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task.failed", task=task.get_name(), exc_info=error)
