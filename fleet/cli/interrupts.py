"""Handles Ctrl-C while a command waits: once leaves the task running and says how to go on, twice cancels it."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

from fleet.cli.output import say
from fleet.config import Settings
from fleet.errors import FleetError
from fleet.exits import Exit

SECOND_WITHIN_S = 3.0


async def interruptible(
    waiting: Coroutine[Any, Any, int], settings: Settings, task_id: str, published: asyncio.Event
) -> int:
    """What `waiting` returns, or the status of an interrupted program. `asked`: there is a task to go on with."""
    loop = asyncio.get_running_loop()
    once, twice = asyncio.Event(), asyncio.Event()

    def hear() -> None:
        (twice if once.is_set() else once).set()

    loop.add_signal_handler(signal.SIGINT, hear)
    task, interrupted = asyncio.ensure_future(waiting), asyncio.create_task(once.wait())
    await asyncio.wait({task, interrupted}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        interrupted.cancel()
        return task.result()
    task.cancel()  # takes the live display away
    await asyncio.wait({task})
    if not published.is_set():
        return Exit.INTERRUPTED
    say(
        f"\n{task_id} goes on without this command.\n"
        f"  fleet watch {task_id}                see it at work\n"
        f"  fleet result {task_id} --wait 300    its outcome\n"
        f"  fleet cancel {task_id}               stop it; so does Ctrl-C now",
        stderr=True,
    )
    try:
        async with asyncio.timeout(SECOND_WITHIN_S):
            await twice.wait()
    except TimeoutError:
        return Exit.INTERRUPTED
    await _cancel(settings, task_id)
    return Exit.INTERRUPTED


async def _cancel(settings: Settings, task_id: str) -> None:
    from fleet.client.session import session

    try:
        async with session(settings) as fleet:
            await fleet.cancel(task_id, "interrupted")
    except FleetError as error:
        say(f"{task_id} was not cancelled: {error}", stderr=True)
    else:
        say(f"{task_id}: cancelled", stderr=True)
