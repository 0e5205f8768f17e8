"""How tasks end on the event loop, and who hears of it."""

import asyncio

from structlog.testing import capture_logs

from fleet.event_loop import end, log_failure


async def test_a_task_that_drops_a_cancellation_is_ended_nevertheless() -> None:
    """As `asyncio.wait_for` drops one on Python 3.11 that comes together with the result."""
    dropped = []

    async def drops_one() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if dropped:
                    raise
                dropped.append(True)

    task = asyncio.create_task(drops_one())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await end(task, pause_s=0.01)
    assert task.cancelled()


async def test_a_task_that_ignores_every_cancellation_is_not_waited_for_without_end() -> None:
    over = asyncio.Event()

    async def ignores() -> None:
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(ignores())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await end(task, pause_s=0.01)
    assert not task.done()
    over.set()
    await task


async def test_the_error_of_a_task_that_nobody_awaits_is_in_the_log() -> None:
    """At once, with the task's name; an end that was asked for is none."""

    async def fails() -> None:
        raise ZeroDivisionError

    with capture_logs() as logs:
        failing = asyncio.create_task(fails(), name="step")
        failing.add_done_callback(log_failure)
        ended = asyncio.create_task(asyncio.sleep(60))
        ended.add_done_callback(log_failure)
        ended.cancel()
        await asyncio.wait([failing, ended])
    assert [(line["event"], line["log_level"], line["task"]) for line in logs] == [("task.failed", "error", "step")]
