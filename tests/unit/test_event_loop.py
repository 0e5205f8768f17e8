"""How tasks end on the event loop, and who hears of it."""

import asyncio
import gc
from collections.abc import Awaitable, Iterator

import pytest
from structlog.testing import capture_logs

from fleet.event_loop import SharedWork, all_of, end, fast_loop, log_failure, settle
from tests.support.tasks import drops_one_cancellation
from tests.support.waiting import WITHIN_S


async def test_a_task_that_drops_a_cancellation_is_ended_nevertheless() -> None:
    """As `asyncio.wait_for` drops one on Python 3.11 that comes together with the result."""
    task = asyncio.create_task(drops_one_cancellation())
    await asyncio.sleep(0)
    async with asyncio.timeout(WITHIN_S):
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
    async with asyncio.timeout(WITHIN_S):
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


async def test_all_are_done_some_at_a_time_and_the_first_error_is_raised() -> None:
    """Each is made when it is its turn; one that fails keeps none of the others from being done."""
    waiting, done, most = 0, [], 0

    async def work(number: int) -> None:
        nonlocal waiting, most
        most = max(most, waiting)
        await asyncio.sleep(0)
        waiting -= 1
        done.append(number)
        if number in (3, 5):
            raise ValueError(number)

    def works() -> Iterator[Awaitable[None]]:
        nonlocal waiting
        for number in range(10):
            waiting += 1
            yield work(number)

    with pytest.raises(ValueError, match="3"):
        await all_of(works(), at_once=2)
    assert (sorted(done), most) == (list(range(10)), 2)


@pytest.mark.parametrize(("left_behind", "reported"), [(asyncio.CancelledError(), 0), (ZeroDivisionError(), 1)])
def test_of_what_nobody_awaits_errors_are_reported(
    caplog: pytest.LogCaptureFixture, left_behind: BaseException, reported: int
) -> None:
    """A cancellation is none: nats-py leaves some behind where a connection ends before it has drained."""

    async def leaves_it() -> None:
        asyncio.get_running_loop().call_exception_handler({"message": "never retrieved", "exception": left_behind})

    with asyncio.Runner(loop_factory=fast_loop) as runner:
        runner.run(leaves_it())
    assert len(caplog.records) == reported


def test_what_is_there_once_a_process_is_ready_is_not_looked_at_again() -> None:
    """Python's look for cycles goes through what came later alone, and less often."""
    thresholds, here = gc.get_threshold(), [[]]
    try:
        settle()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold()[0] > thresholds[0]
        assert not any(each is here for each in gc.get_objects())
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


async def test_shared_work_is_done_once_for_all_who_ask_before_it_begins() -> None:
    """Who comes while it is done gets the next one, and nobody's leaving ends it for the others."""
    begun, gate = [], asyncio.Event()

    async def work() -> int:
        begun.append(len(begun) + 1)
        await gate.wait()
        return begun[-1]

    shared = SharedWork(work)
    first = [asyncio.create_task(shared.result()) for _ in range(10)]
    await asyncio.sleep(0.01)
    later = [asyncio.create_task(shared.result()) for _ in range(10)]
    await asyncio.sleep(0)
    first[0].cancel()
    gate.set()
    assert await asyncio.gather(*first[1:], *later) == [1] * 9 + [2] * 10


async def test_shared_work_pauses_and_fails_for_all() -> None:
    """An error is nobody's who has gone away."""
    begun: list[None] = []

    async def fail() -> None:
        begun.append(None)
        raise OSError

    shared = SharedWork(fail, pause_s=0.05)
    results = await asyncio.gather(*(shared.result() for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [OSError] * 3
    again = asyncio.create_task(shared.result())
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(begun) == 1
    await asyncio.wait([again])
    assert (type(again.exception()), len(begun)) == (OSError, 2)
