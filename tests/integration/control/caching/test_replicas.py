"""Several dispatchers and collectors: equal questions run once, whoever of them dies, and when."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import nats
import pytest

from fleet import subjects
from fleet.crashpoints import VARIABLE
from tests.integration.control.caching.test_answers import Council, question
from tests.support import agents
from tests.support.fleets.control_plane import Fleet, client_on
from tests.support.fleets.processes import Component
from tests.support.nats import servers
from tests.support.variants import some_of
from tests.support.waiting import until_consumer

pytestmark = pytest.mark.usefixtures("nats_binary")

KINDS = ("dispatcher", "dispatcher", "collector", "collector")
QUESTIONS = 30


@asynccontextmanager
async def replicas(tmp_path: Path, council: Council, dies: str = "", at: str = "") -> AsyncIterator[Fleet]:
    """Two of each, in processes of their own; the first one of the kind `dies` does so at a point of the code."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(servers.one(tmp_path / "nats"))
        components = []
        for index, kind in enumerate(KINDS):
            armed = {VARIABLE: at} if kind == dies and kind not in KINDS[:index] else {}
            components.append(Component(kind, tmp_path / f"{kind}-{index}.log", NATS_URL=server.url, **armed))
            stack.push_async_callback(components[-1].end, signal.SIGKILL)
        await asyncio.gather(*(component.start() for component in components))
        nc = await nats.connect(server.url)
        stack.push_async_callback(nc.close)
        fleet = await client_on(nc)
        await stack.enter_async_context(agents.answering(fleet.nc, council))
        yield fleet


async def stampede(fleet: Fleet, council: Council, count: int) -> None:
    """Each has one end, and one of them was run. What was accepted may be told again after a crash."""
    ids = [f"t-{number}" for number in range(count)]
    await asyncio.gather(*(fleet.request(**question(task_id)) for task_id in ids))
    ends = [await fleet.inbox.next(subjects.COMPLETED, task_id=task_id) for task_id in ids]
    (ran,) = council.tasks
    assert {end["cached_from"] for end in ends} == {None, ran}
    for task_id in ids:
        told = fleet.inbox.of(task_id)
        assert (set(told), told.count(subjects.COMPLETED)) == ({subjects.ACCEPTED, subjects.COMPLETED}, 1)


@pytest.mark.slow
async def test_a_hundred_equal_questions_run_once_on_two_of_each(tmp_path: Path) -> None:
    council = Council()
    async with replicas(tmp_path, council) as fleet:
        await stampede(fleet, council, 100)
        js = fleet.nc.jetstream()
        for stream, consumer in (
            (subjects.DELIBERATION_REQUESTS, subjects.DISPATCHER),
            (subjects.DELIBERATION_CONTROL, subjects.CONTROLLER),
        ):
            await until_consumer(js, stream, consumer, lambda info: info.num_ack_pending == 0)


@some_of(
    1,
    ("dies", "at"),
    [
        ("dispatcher", "delivery.received:3"),
        ("dispatcher", "runner.decided:1"),
        ("dispatcher", "runner.saved:1"),
        ("dispatcher", "runner.published:5"),
        ("collector", "delivery.received:1"),
        ("collector", "delivery.received:9"),
        ("collector", "runner.decided:1"),  # the slot may be claimed, and nobody told
        ("collector", "runner.saved:1"),
        ("collector", "runner.saved:4"),
        ("collector", "runner.published:2"),
        ("collector", "outbox.concluded:1"),  # the end is told, and no follower
        ("collector", "outbox.concluded:9"),
    ],
)
async def test_whoever_dies_every_question_is_answered_and_one_runs(tmp_path: Path, dies: str, at: str) -> None:
    council = Council()
    async with replicas(tmp_path, council, dies, at) as fleet:
        await stampede(fleet, council, QUESTIONS)
