"""Makes the event loop that everything runs on; ends its tasks, and logs those that fail."""

import asyncio
from typing import Any

from fleet.logger import Logger

log = Logger(__name__)

CANCEL_TRIES, CANCEL_PAUSE_S = 5, 0.5


def fast_loop() -> asyncio.AbstractEventLoop:
    """uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


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
