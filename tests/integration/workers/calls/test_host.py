"""A worker in a thread of its own, asked by a caller that blocks; a real nats-server and the simulated model server."""

import asyncio
import threading

import pytest
from msgspec.structs import replace

from fleet import subjects
from fleet.errors import Unreachable
from tests.support.fake_control_plane import Plane, request, settings
from workers.ray_pool import worker_thread as host
from workers.ray_pool.worker_thread import Host, Pauses
from workers.simulator.server import Simulator


async def test_a_worker_starts_when_it_is_asked_for_stops_and_starts_again(plane: Plane) -> None:
    """Each time it takes the calls."""
    async with Simulator() as simulator:
        hosted = Host(settings(plane, simulator), "hosted")
        for number in (1, 2):
            assert (await asyncio.to_thread(hosted.status)).done == 0
            await plane.submit(request(question=number))
            await plane.next(subjects.AGENT_COMPLETED, number)
            await plane.settled()
            assert (await asyncio.to_thread(hosted.status)).done == 1
            await asyncio.to_thread(hosted.stop, 1.0)
        await asyncio.to_thread(hosted.stop, 1.0)  # nothing there: nothing to do


async def test_a_worker_whose_connection_was_given_up_is_started_again(plane: Plane) -> None:
    """As where its credentials have expired: nats-py tries no more."""
    async with Simulator() as simulator:
        hosted = Host(settings(plane, simulator), "hosted")
        await asyncio.to_thread(hosted.status)
        given_up = hosted._worker
        assert given_up is not None
        closing = asyncio.run_coroutine_threadsafe(given_up._nc.close(), hosted._loop)
        await asyncio.to_thread(closing.result, 10)
        await asyncio.to_thread(hosted.status)
        assert hosted._worker is not given_up
        await plane.submit(request())
        await plane.next(subjects.AGENT_COMPLETED)
        await asyncio.to_thread(hosted.stop, 1.0)


async def test_a_worker_that_cannot_start_says_why_and_is_tried_again(plane: Plane) -> None:
    """The next time it is asked for."""
    async with Simulator() as simulator:
        hosted = Host(replace(settings(plane, simulator), nats_url="nats://127.0.0.1:1"), "hosted")
        for _ in range(2):
            with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
                await asyncio.to_thread(hosted.status)


async def test_a_loop_that_is_stuck_does_not_answer(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """And answers once it is free."""
    async with Simulator() as simulator:
        hosted = Host(settings(plane, simulator), "hosted")
        await asyncio.to_thread(hosted.status)
        free = threading.Event()
        hosted._loop.call_soon_threadsafe(free.wait, 30)
        with monkeypatch.context() as shorter:
            shorter.setattr(host, "ANSWER_WITHIN_S", 0.1)
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(hosted.status)
        free.set()
        assert (await asyncio.to_thread(hosted.status)).open_calls == 0
        await asyncio.to_thread(hosted.stop, 1.0)


def test_watchers_share_a_pause() -> None:
    """Those who were not seen for long do not count."""
    pauses = Pauses(10.0)
    assert pauses.share_s("a", 2.0, now=0.0) == 2.0
    assert pauses.share_s("a", 2.0, now=2.0) == 2.0
    assert pauses.share_s("b", 2.0, now=3.0) == 1.0
    assert pauses.share_s("a", 2.0, now=4.0) == 1.0
    assert pauses.share_s("a", 2.0, now=13.5) == 2.0
