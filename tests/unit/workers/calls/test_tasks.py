import asyncio

import pytest
from structlog.testing import capture_logs

from workers.calls.tasks import BackgroundTasks


async def forever() -> None:
    await asyncio.Event().wait()


async def broken() -> None:
    raise ZeroDivisionError


async def over() -> None:
    pass


def background() -> tuple[BackgroundTasks, "asyncio.Future[None]"]:
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    return BackgroundTasks(failed), failed


async def test_the_error_of_a_loop_is_logged_and_passed_on() -> None:
    """With the name of the task: whoever owns the tasks hears of it at once."""
    tasks, failed = background()
    with capture_logs() as logs:
        tasks.loop("renew", broken())
        with pytest.raises(ZeroDivisionError):
            await failed
    assert [(line["event"], line["log_level"], line["task"]) for line in logs] == [
        ("worker.background_task_failed", "critical", "renew")
    ]


async def test_a_loop_that_returns_has_failed() -> None:
    tasks, failed = background()
    tasks.loop("renew", over())
    with pytest.raises(RuntimeError, match="renew"):
        await failed


async def test_a_step_that_fails_is_logged_and_ends_nothing_else() -> None:
    tasks, failed = background()
    with capture_logs() as logs:
        step = tasks.loop("renew", forever())
        tasks.step("stop calls", broken())
        while not logs:  # noqa: ASYNC110 - a log has no event to wait on
            await asyncio.sleep(0)
    assert [(line["event"], line["task"]) for line in logs] == [("task.failed", "stop calls")]
    assert not failed.done()
    assert not step.done()
    await tasks.close()


async def test_closing_ends_all_and_is_no_failure() -> None:
    tasks, failed = background()
    loop = tasks.loop("renew", forever())
    await tasks.close()
    assert loop.cancelled()
    assert not failed.done()
