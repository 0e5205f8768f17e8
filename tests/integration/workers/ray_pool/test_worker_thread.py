"""A worker in a thread of its own, called by a thread that blocks; a real nats-server, the simulated model server."""

import asyncio
import threading

import pytest
from msgspec.structs import replace
from nats.aio.msg import Msg

from fleet import subjects
from fleet.errors import Unreachable
from tests.support.waiting import until
from tests.support.workers.fake_control_plane import SLOW, Plane, request, settings
from workers.ray_pool import worker_thread
from workers.ray_pool.worker_thread import WorkerThread
from workers.simulator.server import Simulator


def unexpected() -> None:
    raise AssertionError("the worker has failed")


async def test_a_worker_starts_when_it_is_asked_for_stops_and_starts_again(plane: Plane) -> None:
    """Each time it takes the calls."""
    async with Simulator() as simulator:
        thread = WorkerThread(settings(plane, simulator), "threaded", on_failure=unexpected)
        for number in (1, 2):
            assert (await asyncio.to_thread(thread.status)).done == 0
            await plane.submit(request(question=number))
            await plane.next(subjects.AGENT_COMPLETED, number)
            await plane.settled()
            assert (await asyncio.to_thread(thread.status)).done == 1
            await asyncio.to_thread(thread.stop, 1.0)
        await asyncio.to_thread(thread.stop, 1.0)  # nothing there: nothing to do


async def test_a_worker_whose_connection_was_given_up_is_started_again(plane: Plane) -> None:
    """As where its credentials have expired: nats-py tries no more."""
    async with Simulator() as simulator:
        thread = WorkerThread(settings(plane, simulator), "threaded", on_failure=unexpected)
        await asyncio.to_thread(thread.status)
        given_up = thread.worker
        assert given_up is not None
        closing = asyncio.run_coroutine_threadsafe(given_up._nc.close(), thread._loop)
        await asyncio.to_thread(closing.result, 10)
        await asyncio.to_thread(thread.status)
        assert thread.worker is not given_up
        await plane.submit(request())
        await plane.next(subjects.AGENT_COMPLETED)
        await asyncio.to_thread(thread.stop, 1.0)


async def test_a_worker_that_cannot_start_says_why_and_is_tried_again(plane: Plane) -> None:
    """The next time it is asked for."""
    async with Simulator() as simulator:
        unreachable = replace(settings(plane, simulator), nats_url="nats://127.0.0.1:1")
        thread = WorkerThread(unreachable, "threaded", on_failure=unexpected)
        for _ in range(2):
            with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
                await asyncio.to_thread(thread.status)


async def test_a_loop_that_is_stuck_does_not_answer(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """And answers once it is free."""
    async with Simulator() as simulator:
        thread = WorkerThread(settings(plane, simulator), "threaded", on_failure=unexpected)
        await asyncio.to_thread(thread.status)
        free = threading.Event()
        thread._loop.call_soon_threadsafe(free.wait, 30)
        with monkeypatch.context() as shorter:
            shorter.setattr(worker_thread, "ANSWER_WITHIN_S", 0.1)
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(thread.status)
        free.set()
        assert (await asyncio.to_thread(thread.status)).open_calls == 0
        await asyncio.to_thread(thread.stop, 1.0)


async def test_a_background_task_that_fails_calls_for_another_process(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A heartbeat that raises once is not the last one: the worker is started again, and keeps its leases."""
    heartbeats = 0
    in_progress = Msg.in_progress

    async def fail_once(msg: Msg) -> None:
        nonlocal heartbeats
        heartbeats += 1
        if heartbeats == 1:
            raise RuntimeError("nobody foresaw this")
        await in_progress(msg)

    monkeypatch.setattr(Msg, "in_progress", fail_once)
    failed = threading.Event()
    await plane.put_state()
    async with Simulator(SLOW) as simulator:
        thread = WorkerThread(settings(plane, simulator), "threaded", on_failure=failed.set)
        await asyncio.to_thread(thread.status)
        await plane.submit(request())
        assert await asyncio.to_thread(failed.wait, 30)
        assert thread.worker is not None
        with pytest.raises(RuntimeError, match="nobody foresaw this"):
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(result(thread.worker.ended), thread._loop))
        await asyncio.to_thread(thread.status)  # as the new process does
        await until(lambda: heartbeats > 1)
        await asyncio.to_thread(thread.stop, 0.0)


async def result(ended: "asyncio.Future[None]") -> None:
    await ended
