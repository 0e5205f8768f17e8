"""Streams that an operator sets back, purges or refills under a running fleet: it notices, and each task ends once."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from fleet import subjects
from fleet.control.collector import Collector
from fleet.control.intake import IncomingMessage
from fleet.control.publishing import terminal_events
from fleet.control.recovery import lost_streams, reconciliation, watchdog
from fleet.jetstream import topology
from fleet.messages import AgentRequested, AgentResponse
from tests.support import agents
from tests.support.fleets.control_plane import Fleet, without_workers
from tests.support.nats.natscli import nats_cli, run
from tests.support.variants import some_of
from tests.support.waiting import WITHIN_S, until, until_emptied

pytestmark = pytest.mark.xdist_group("natscli")
RUNNING = ("running-0", "running-1")
Nats = Callable[..., Awaitable[None]]


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nats_cli(tmp_path_factory.mktemp("natscli"))


@pytest.fixture
def by_hand(binary: Path, nats_url: str) -> Nats:
    async def nats(*words: object) -> None:
        status, out = await run(binary, nats_url, *map(str, words))
        assert status == 0, out

    return nats


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "PROBE_INTERVAL_S", 1.0)
    monkeypatch.setattr(reconciliation, "SETTLED_AFTER_S", 0.5)
    monkeypatch.setattr(lost_streams, "RESTORED_WITHIN_S", 3.0)


async def begin(fleet: Fleet, *names: str) -> None:
    for name in names:
        await fleet.request(task_id=name, num_agents=2, rounds=0)
        await fleet.inbox.next(subjects.ACCEPTED, task_id=name)


async def reconciled(logs: list[dict[str, object]], times: int) -> None:
    await until(lambda: sum(line["event"] == "streams.reconciled" for line in logs) >= times)


async def result(fleet: Fleet, name: str) -> dict[str, Any]:
    """Of a task that ends within far less than its deadline."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            _, reply = await fleet.ask(subjects.RESULT, {"task_id": name, "wait_seconds": 5})
            if "result" in reply:
                return dict(reply["result"])


async def told(fleet: Fleet, *names: str) -> dict[str, int]:
    """How often events told that they ended: a result may be had a moment before its event."""
    await until(lambda: {*names} <= _ends(fleet).keys())  # it may be one of several subjects
    ends = _ends(fleet)
    return {name: ends[name] for name in names}


def _ends(fleet: Fleet) -> Counter[str]:
    return Counter(body["task_id"] for subject, _, body in fleet.inbox.events if subject in subjects.TERMINAL)


async def ends(fleet: Fleet, *names: str) -> dict[str, str]:
    """How each of them ended; as result and events tell."""
    statuses = {name: str((await result(fleet, name))["status"]) for name in names}
    assert await told(fleet, *names) == dict.fromkeys(names, 1)
    return statuses


async def schedules(fleet: Fleet) -> set[str]:
    """Subjects of the deadlines that are to come."""
    js = fleet.nc.jetstream()
    info = await js.stream_info(subjects.DELIBERATION_CONTROL, subjects_filter=subjects.schedule_of("*"))
    return {*(info.state.subjects or ())}


async def nothing_is_due(fleet: Fleet) -> None:
    """A deadline is taken back after its event was published."""

    async def is_so() -> bool:
        return not await schedules(fleet)

    await until(is_so)


async def looked_at(fleet: Fleet, stream: str) -> None:
    """Dispatcher and collector have both asked NATS how it is, from now on: what comes now is held against that."""
    asked = await fleet.nc.subscribe(f"$JS.API.STREAM.INFO.{stream}")
    for _ in range(2 * len(("dispatcher", "collector"))):  # one may be ahead of the other
        await asked.next_msg(WITHIN_S)
    await asked.unsubscribe()


async def set_back(by_hand: Nats, stream: str, backup: Path) -> None:
    """Where the fleet has declared it anew in between, an operator removes it once more."""
    for _ in range(20):
        await by_hand("stream", "rm", stream, "--force")
        try:
            await by_hand("stream", "restore", backup)
        except AssertionError as refused:
            if "already exist" not in str(refused):
                raise
        else:
            return
    pytest.fail(f"{stream} was never restored")


@some_of(
    1,
    "stream",
    [
        subjects.AGENT_REQUESTS,
        subjects.DELIBERATION_CONTROL,
        subjects.AGENT_RESPONSES,
        subjects.DELIBERATIONS,
        subjects.STATES,
    ],
)
async def test_a_stream_that_is_set_back_is_noticed_and_each_task_ends_once(
    nats_url: str, by_hand: Nats, tmp_path: Path, stream: str
) -> None:
    """Removed and restored from an older backup, as fast as an operator's script does it."""
    async with without_workers(nats_url) as fleet:
        await begin(fleet, "before")
        await by_hand("stream", "backup", stream, tmp_path / "backup")
        await begin(fleet, *RUNNING)
        if stream == subjects.AGENT_RESPONSES:
            await fleet.nc.jetstream().publish(subjects.AGENT_COMPLETED, b"{}")  # no answer; but it is not empty now
        await looked_at(fleet, stream)
        with structlog.testing.capture_logs() as logs:
            await set_back(by_hand, stream, tmp_path / "backup")
            await reconciled(logs, 2)
        async with agents.answering(fleet.nc):
            expected = "FAILED" if stream == subjects.STATES else "COMPLETED"
            assert await ends(fleet, "before", *RUNNING) == {"before": "COMPLETED"} | dict.fromkeys(RUNNING, expected)
        await nothing_is_due(fleet)


@some_of(1, "stream", [subjects.AGENT_REQUESTS, subjects.DELIBERATION_CONTROL, subjects.STATES])
async def test_a_stream_that_is_purged_again_and_again_is_noticed(nats_url: str, by_hand: Nats, stream: str) -> None:
    """What a running task needs of it is published again, each time."""
    async with without_workers(nats_url) as fleet:
        await begin(fleet, *RUNNING)
        for times in (1, 2):
            with structlog.testing.capture_logs() as logs:
                await by_hand("request", subjects.purge_of(stream), "")
                await reconciled(logs, 2 * times)
        if stream == subjects.DELIBERATION_CONTROL:
            assert await schedules(fleet) == {subjects.schedule_of(name) for name in RUNNING}
        async with agents.answering(fleet.nc):
            expected = "FAILED" if stream == subjects.STATES else "COMPLETED"
            assert await ends(fleet, *RUNNING) == dict.fromkeys(RUNNING, expected)


async def test_states_that_are_purged_and_filled_in_again_go_on(nats_url: str, by_hand: Nats) -> None:
    """From what was filled in, or as it was told meanwhile: one end each."""
    async with without_workers(nats_url) as fleet:
        await begin(fleet, *RUNNING)
        bucket = await fleet.nc.jetstream().key_value(subjects.BUCKET)
        states = {name: (await bucket.get(name)).value for name in RUNNING}
        with structlog.testing.capture_logs() as logs:
            await by_hand("request", subjects.purge_of(subjects.STATES), "")
            for name, state in states.items():
                await bucket.put(name, state or b"")
            await reconciled(logs, 4)
        async with agents.answering(fleet.nc):
            await ends(fleet, *RUNNING)


@some_of(1, "done", ["purged", "set back", "deleted by their keys"])
async def test_an_end_that_was_told_long_ago_is_told_once(
    nats_url: str, by_hand: Nats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: str
) -> None:
    """NATS has forgotten its message id, and the state says nothing of it: its result is the one that was told."""
    monkeypatch.setattr(topology, "DUPLICATE_WINDOW_S", 0.1)
    monkeypatch.setattr(terminal_events, "SCAN_MARGIN", timedelta())
    async with without_workers(nats_url) as fleet:
        await begin(fleet, *RUNNING)
        await by_hand("stream", "backup", subjects.STATES, tmp_path / "backup")
        async with agents.answering(fleet.nc):
            results = [await result(fleet, name) for name in RUNNING]
        with structlog.testing.capture_logs() as logs:
            if done == "set back":
                await set_back(by_hand, subjects.STATES, tmp_path / "backup")
            elif done == "purged":
                await by_hand("request", subjects.purge_of(subjects.STATES), "")
            else:
                bucket = await fleet.nc.jetstream().key_value(subjects.BUCKET)
                for name in RUNNING:
                    await bucket.delete(name)
                await by_hand("request", subjects.purge_of(subjects.DELIBERATION_CONTROL), "")
            await reconciled(logs, 4)
        if done == "deleted by their keys":
            assert [(await fleet.ask(subjects.RESULT, {"task_id": name}))[0] for name in RUNNING] == ["404", "404"]
        else:
            assert [await result(fleet, name) for name in RUNNING] == results
        assert await told(fleet, *RUNNING) == dict.fromkeys(RUNNING, 1)


@pytest.mark.slow
async def test_nothing_is_asked_twice_where_nothing_was_lost(nats_url: str, by_hand: Nats) -> None:
    """Answers and calls are on their way while streams and states are compared."""
    attempts: Counter[int] = Counter()

    def respond(call: AgentRequested) -> AgentResponse:
        attempts[call.attempt] += 1
        return agents.answer(call)

    async with without_workers(nats_url) as fleet, agents.answering(fleet.nc, respond):
        with structlog.testing.capture_logs() as logs:
            for number in range(3):
                names = [f"t-{number}-{each}" for each in range(10)]
                for name in names:
                    await fleet.request(task_id=name, num_agents=3)
                await by_hand("stream", "purge", subjects.DEAD_LETTERS, "--force")
                await by_hand("stream", "purge", subjects.AGENT_RESPONSES, "--force", "--keep", "1000")
                await ends(fleet, *names)
            await reconciled(logs, 2)
    assert attempts.keys() == {1}, json.dumps(attempts)


async def test_what_was_answered_is_not_asked_again_before_anybody_took_it(
    nats_url: str, by_hand: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector was cut off, say, and another stream lost meanwhile."""
    asked: Counter[str] = Counter()
    back, take = asyncio.Event(), Collector.on_response

    def respond(call: AgentRequested) -> AgentResponse:
        asked[call.call_id] += 1
        return agents.answer(call)

    async def later(self: Collector, message: IncomingMessage) -> None:
        await back.wait()
        await take(self, message)

    monkeypatch.setattr(Collector, "on_response", later)
    async with without_workers(nats_url) as fleet:
        await begin(fleet, *RUNNING)
        async with agents.answering(fleet.nc, respond):
            await until_emptied(fleet.nc.jetstream(), subjects.AGENT_REQUESTS)
            with structlog.testing.capture_logs() as logs:
                await by_hand("request", subjects.purge_of(subjects.DELIBERATION_CONTROL), "")
                await reconciled(logs, 4)
            back.set()
            assert await ends(fleet, *RUNNING) == dict.fromkeys(RUNNING, "COMPLETED")
    assert set(asked.values()) == {1}, asked
