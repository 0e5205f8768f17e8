"""Streams and durables that vanish, or fill, under a running fleet, on a real nats-server."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import dropwhile
from typing import Any, ClassVar

import nats
import pytest
import structlog
from msgspec.structs import replace
from nats.js.errors import NotFoundError

from fleet import subjects
from fleet.chaos.proxy import Proxy
from fleet.clock import now_ms
from fleet.config import Limits, Settings, load
from fleet.control.call_tokens import CallTokens
from fleet.control.lost_tasks import UnendedTasks
from fleet.control.publishing.outbox import Outbox
from fleet.control.recovery.lost_streams import LostStreams
from fleet.control.recovery.restored_streams import RestoredStreams
from fleet.control.recovery.watchdog import Watchdog
from fleet.control.states.store import KeyValueStore, Stored
from fleet.deliberation.events import CancelAsked, Requested
from fleet.deliberation.machine import decide
from fleet.errors import Unreachable
from fleet.event_loop import end
from fleet.jetstream import streams, topology
from fleet.jetstream.history import terminal_id
from fleet.jetstream.payloads import Texts
from fleet.messages import AgentRequested
from fleet.observability.health import Health
from fleet.requests.task import Task
from tests.support import agents
from tests.support.fleets.control_plane import Fleet, running, without_workers
from tests.support.runner import make_runner
from tests.support.variants import some_of
from tests.support.waiting import WITHIN_S, until, until_stored

STREAMS = [spec.name for spec in streams.STREAMS] + [spec.stream for spec in streams.BUCKETS]
DURABLES = [(stream, str(consumer.durable_name)) for stream, consumer in topology.consumers(load({}))]


@pytest.fixture(autouse=True)
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.control.recovery.watchdog.PROBE_INTERVAL_S", 0.1)


async def again(look: Callable[[], Awaitable[Any]]) -> None:
    """Waits until what was deleted is there again."""
    await until(look, not_yet=(NotFoundError,))


async def completes(fleet: Fleet, **body: Any) -> dict[str, Any]:
    return await fleet.inbox.next(subjects.COMPLETED, task_id=await fleet.request(rounds=0, **body))


@some_of(1, ("stream", "durable"), DURABLES)
async def test_a_durable_that_is_deleted_is_declared_again_and_delivers(
    nats_url: str, stream: str, durable: str
) -> None:
    """To the same subscriptions: what comes afterwards is handled."""
    async with running(nats_url, agents.answer) as fleet:
        js = fleet.nc.jetstream()
        await completes(fleet)
        await js.delete_consumer(stream, durable)
        await again(lambda: js.consumer_info(stream, durable))
        await completes(fleet)
        _, reply = await fleet.ask(subjects.ASK, {"task_description": "x", "num_agents": 1})
        assert reply["status"] == "COMPLETED"


@some_of(3, "stream", STREAMS)
async def test_a_stream_that_is_deleted_is_declared_again_and_used(nats_url: str, stream: str) -> None:
    """With its consumers."""
    async with running(nats_url, agents.answer) as fleet:
        js = fleet.nc.jetstream()
        await completes(fleet)
        await js.delete_stream(stream)
        await again(lambda: js.stream_info(stream))
        for of, durable in DURABLES:
            if of == stream:
                await again(lambda durable=durable: js.consumer_info(stream, durable))  # type: ignore[misc]
        await completes(fleet)


async def test_numbers_of_requests_go_on_where_their_stream_was_deleted(nats_url: str) -> None:
    """They name tasks: a new request is not taken for one that has ended. Settings of the stream may still change."""
    async with running(nats_url, agents.answer) as fleet:
        js = fleet.nc.jetstream()
        ended = set()
        for description in ("first", "second"):
            body = json.dumps({"task_description": description, "num_agents": 1}).encode()
            task_id = f"d-{(await js.publish(subjects.REQUESTED, body)).seq}"
            ended.add((await fleet.inbox.next(subjects.COMPLETED, task_id=task_id))["task_id"])
            await js.delete_stream(subjects.DELIBERATION_REQUESTS)
            await again(lambda: js.consumer_info(subjects.DELIBERATION_REQUESTS, subjects.DISPATCHER))
        assert len(ended) == 2
        changed = replace(load({}), limits=Limits(max_waiting_requests=7))
        await topology.declare(js, changed)
        info = await js.stream_info(subjects.DELIBERATION_REQUESTS)
        assert info.config.max_msgs == 7
        assert (info.config.first_seq or 0) > 10**12


async def test_a_deadline_that_was_lost_with_its_stream_is_set_again(nats_url: str) -> None:
    """A task whose workers are silent ends nevertheless."""
    async with running(nats_url, lambda call: None) as fleet:
        task_id = await fleet.request(constraints={"timeout_seconds": 3})
        await fleet.inbox.next(subjects.ACCEPTED, task_id=task_id)
        await fleet.nc.jetstream().delete_stream(subjects.DELIBERATION_CONTROL)
        assert (await fleet.inbox.next(subjects.FAILED, task_id=task_id))["status"] == "TIMEOUT"


@pytest.mark.parametrize("stream", [subjects.AGENT_REQUESTS, subjects.AGENT_RESPONSES])
async def test_calls_that_were_lost_with_their_stream_are_made_again(nats_url: str, stream: str) -> None:
    """The task completes long before its deadline, and nothing is counted twice."""
    seen: list[AgentRequested] = []

    def second_time(call: AgentRequested) -> Any:
        seen.append(call)
        return agents.answer(call) if call.attempt > 1 or call.phase != "propose" else None

    async with running(nats_url, second_time) as fleet:
        task_id = await fleet.request(rounds=0)
        await until(lambda: len(seen) >= 3)
        await fleet.nc.jetstream().delete_stream(stream)
        done = await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)
    assert (done["degraded"], done["successful_responses"], done["usage"]["calls"]) == (False, 3, 6)


async def test_calls_that_wait_are_not_made_again_where_answers_were_lost(nats_url: str) -> None:
    """No answer of theirs can be lost yet: a model would work twice."""
    with structlog.testing.capture_logs() as logged:
        async with without_workers(nats_url) as fleet:
            js = fleet.nc.jetstream()
            task_id = await fleet.request(rounds=0)
            await until_stored(js, subjects.AGENT_REQUESTS, lambda count: count == 3)
            await js.delete_stream(subjects.AGENT_RESPONSES)
            await again(lambda: js.consumer_info(subjects.AGENT_RESPONSES, subjects.COLLECTOR))
            await until(lambda: "streams.reconciled" in _after("topology.declared_again", logged))
            assert (await js.stream_info(subjects.AGENT_REQUESTS)).state.messages == 3
            async with agents.answering(fleet.nc):
                done = await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)
    assert (done["degraded"], done["usage"]["calls"]) == (False, 6)


def _after(event: str, logged: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which events follow the first one of this name. A fleet that starts may reconcile streams, too."""
    return [*dropwhile(lambda name: name != event, (str(each["event"]) for each in logged))]


async def test_a_task_whose_state_was_lost_fails_once(nats_url: str) -> None:
    """Whoever waits for it hears so; its calls are stopped, and what had ended stays as it was."""
    open_calls: list[AgentRequested] = []

    def silent_for_the_lost(call: AgentRequested) -> Any:
        open_calls.append(call)
        return None if call.task_id == "lost" else agents.answer(call)

    async with running(nats_url, silent_for_the_lost) as fleet:
        stops: asyncio.Queue[Any] = asyncio.Queue()
        await completes(fleet, task_id="ended")
        await fleet.request(task_id="lost", correlation={"story": "S-1"})
        await until(lambda: sum(call.task_id == "lost" for call in open_calls) >= 3)
        await fleet.nc.subscribe(subjects.AGENT_STOP, cb=stops.put)
        await fleet.nc.jetstream().delete_stream("KV_deliberations")
        failed = await fleet.inbox.next(subjects.FAILED, task_id="lost")
        assert (failed["status"], failed["correlation"]) == ("FAILED", {"story": "S-1"})
        assert json.loads((await stops.get()).data)["task_id"] == "lost"
        _, reply = await fleet.ask(subjects.RESULT, {"task_id": "lost"})
        assert reply["result"] == failed
        await completes(fleet)
        assert fleet.inbox.of("lost").count(subjects.FAILED) == 1
        assert fleet.inbox.of("ended") == [subjects.ACCEPTED, subjects.COMPLETED]


async def delete_key(fleet: Fleet, task_id: str) -> None:
    await (await fleet.nc.jetstream().key_value(subjects.BUCKET)).delete(task_id)


async def purge(fleet: Fleet, task_id: str) -> None:
    await fleet.nc.jetstream().purge_stream(subjects.STATES)


async def write_garbage(fleet: Fleet, task_id: str) -> None:
    await (await fleet.nc.jetstream().key_value(subjects.BUCKET)).put(task_id, b"\xff")


async def write_nothing(fleet: Fleet, task_id: str) -> None:
    await (await fleet.nc.jetstream().key_value(subjects.BUCKET)).put(task_id, b"")


async def refer_to_nothing(fleet: Fleet, task_id: str) -> None:
    reference = {"bucket": subjects.TEXTS, "name": "tasks/gone", "bytes": 1}
    value = json.dumps({"task_id": task_id, "content_ref": reference}, separators=(",", ":")).encode()
    await (await fleet.nc.jetstream().key_value(subjects.BUCKET)).put(task_id, value)


@some_of(1, "lose", [delete_key, purge, write_garbage, write_nothing, refer_to_nothing])
async def test_a_task_whose_state_alone_was_lost_fails_at_its_deadline(
    nats_url: str, lose: Callable[[Fleet, str], Awaitable[None]]
) -> None:
    """The bucket is still there, so nobody has noticed before. What answers meanwhile changes nothing."""
    calls: asyncio.Queue[AgentRequested] = asyncio.Queue()

    def silent_for_the_lost(call: AgentRequested) -> Any:
        return calls.put_nowait(call) if call.task_id == "lost" else agents.answer(call)

    async with running(nats_url, silent_for_the_lost) as fleet:
        await fleet.request(task_id="lost", num_agents=1, constraints={"timeout_seconds": 3})
        async with asyncio.timeout(WITHIN_S):
            call = await calls.get()
        await lose(fleet, "lost")
        await agents.publish(fleet.nc.jetstream(), agents.answer(call))
        failed = await fleet.inbox.next(subjects.FAILED, task_id="lost")
        assert (failed["status"], "lost the state" in failed["error"]) == ("FAILED", True)
        code, reply = await fleet.ask(subjects.RESULT, {"task_id": "lost"})
        assert (code, reply["result"]) == (None, failed)
        await completes(fleet)
        assert fleet.inbox.of("lost").count(subjects.FAILED) == 1


async def test_all_fail_whose_bucket_was_lost_whatever_stands_among_the_events(nats_url: str) -> None:
    """An event that somebody has forged keeps none of them."""
    seen: list[AgentRequested] = []
    async with running(nats_url, lambda call: seen.append(call)) as fleet:
        await fleet.nc.jetstream().publish(subjects.ACCEPTED, b"{")
        ids = [await fleet.request(num_agents=1) for _ in range(20)]
        await until(lambda: len(seen) >= len(ids))
        fleet.inbox.events.clear()
        await fleet.nc.jetstream().delete_stream(subjects.STATES)
        for call in seen:  # the collectors work on them meanwhile
            await agents.publish(fleet.nc.jetstream(), agents.answer(call))
        for task_id in ids:
            await fleet.inbox.next(subjects.FAILED, task_id=task_id)
        assert all(fleet.inbox.of(task_id) == [subjects.FAILED] for task_id in ids)


async def test_only_running_tasks_are_loaded_after_a_loss(nats_url: str) -> None:
    """Those that have ended are many, and their results long: the top level of their states tells."""
    nc = await nats.connect(nats_url)
    js = nc.jetstream()
    await topology.declare(js, load({}))
    texts = Texts(js, nc.max_payload)

    class Noting(KeyValueStore):
        loaded: ClassVar[set[str]] = set()

        async def load(self, task_id: str) -> Stored | None:
            Noting.loaded.add(task_id)
            return await super().load(task_id)

    store = await Noting.open(js, texts)
    for number in range(100):
        begun = decide(None, Requested(f"t-{number}", Task(task_description="x"), number + 1, now_ms())).state
        if number % 20 == 0:
            await store.save(begun, 0)
            continue
        ended = decide(begun, CancelAsked("", now_ms())).state
        await store.save(ended, 0)
        # An end that was not published would have to be loaded.
        await js.publish(subjects.CANCELLED, b"{}", headers={"Nats-Msg-Id": terminal_id(ended.task_id, ended.run)})
    await store.save(begun.change(task_id="large", calls={"x" * 2_000_000: "open"}), 0)
    unended = UnendedTasks(js, texts)
    tokens = await CallTokens.open(js)
    runner = make_runner(store, Outbox(nc, js, texts, "collector", tokens), find_unended=unended.find)
    lost_streams = LostStreams(js, texts, store, runner, unended, tokens)
    await js.delete_stream(subjects.DELIBERATION_CONTROL)
    created = await topology.declare(js, load({}))
    Noting.loaded.clear()
    lost_streams.after_loss_of(created)
    recovering = asyncio.create_task(lost_streams.run())
    await until_stored(js, subjects.DELIBERATION_CONTROL, lambda count: count >= 6)
    assert Noting.loaded == {"large", *(f"t-{number}" for number in range(0, 100, 20))}
    await end(recovering)
    await nc.close()


async def test_tasks_are_recovered_also_where_not_everything_could_be_declared(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream of deadlines is declared again, then declaring fails: the next attempt finds that stream there."""
    failures = 2
    declare_consumer = topology._declare_consumer

    async def fails_first(*given: Any) -> None:
        nonlocal failures
        if armed and failures:
            failures -= 1
            raise TimeoutError
        await declare_consumer(*given)

    armed = False
    monkeypatch.setattr(topology, "_declare_consumer", fails_first)
    async with running(nats_url, lambda call: None) as fleet:
        task_id = await fleet.request(constraints={"timeout_seconds": 3})
        await fleet.inbox.next(subjects.ACCEPTED, task_id=task_id)
        armed = True
        await fleet.nc.jetstream().delete_stream(subjects.DELIBERATION_CONTROL)
        assert (await fleet.inbox.next(subjects.FAILED, task_id=task_id))["status"] == "TIMEOUT"
    assert not failures


async def watching(nc: Any, settings: Settings, health: Health) -> Watchdog:
    js = nc.jetstream()
    await topology.declare(js, settings)
    texts = Texts(js, nc.max_payload)
    store = await KeyValueStore.open(js, texts)
    unended = UnendedTasks(js, texts)
    tokens = await CallTokens.open(js)
    runner = make_runner(store, Outbox(nc, js, texts, "collector", tokens), find_unended=unended.find)
    lost_streams = LostStreams(js, texts, store, runner, unended, tokens)
    reads = ((subjects.DELIBERATION_REQUESTS, subjects.DISPATCHER),)
    return Watchdog(settings, health, js, (nc,), reads, lost_streams, RestoredStreams(lost_streams))


async def problems(health: Health, *wanted: str) -> None:
    await until(lambda: health.problems() == list(wanted))


async def test_a_connection_that_is_deaf_while_others_are_answered_ends_the_process(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the watchdog that sees it: nats-py waits for its pings."""
    monkeypatch.setattr("fleet.control.recovery.watchdog.GIVEN_UP_AFTER_S", 0.2)
    monkeypatch.setattr("fleet.control.recovery.watchdog.PROBE_TIMEOUT_S", 1.0)
    proxy = Proxy(int(nats_url.rpartition(":")[2]))
    await proxy.start()
    nc = await nats.connect(proxy.url)
    dog = await watching(nc, load({"NATS_URL": nats_url}), Health("test"))
    proxy.silence(lambda _: True)
    with pytest.raises(Unreachable, match="NATS answers others"):
        await dog.run()
    proxy.heal()
    await nc.close()
    await proxy.stop()


async def test_an_outage_of_nats_is_waited_for(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new process could not connect either."""
    monkeypatch.setattr("fleet.control.recovery.watchdog.GIVEN_UP_AFTER_S", 0.0)
    monkeypatch.setattr("fleet.control.recovery.watchdog.PROBE_TIMEOUT_S", 1.0)
    proxy = Proxy(int(nats_url.rpartition(":")[2]))
    await proxy.start()
    nc = await nats.connect(proxy.url)
    health = Health("test")
    dog = await watching(nc, load({"NATS_URL": proxy.url}), health)
    proxy.silence(lambda _: True)
    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(dog.run())
        await until(lambda: sum(line["event"] == "nats.probe_failed" for line in logs) >= 3)
    assert not task.done()
    assert health.problems() == ["nats"]
    proxy.heal()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await nc.close()
    await proxy.stop()


async def test_a_consumer_that_nobody_reads_any_more_ends_the_process(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though every connection answers."""
    monkeypatch.setattr("fleet.control.recovery.watchdog.GIVEN_UP_AFTER_S", 0.2)
    nc = await nats.connect(nats_url)
    dog = await watching(nc, load({}), Health("test"))
    with pytest.raises(Unreachable, match="reads consumer dispatcher, but NATS knows no reader"):
        await dog.run()
    await nc.close()


async def test_a_problem_is_named_until_it_is_over(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that is full, and messages that wait while nobody takes them."""
    monkeypatch.setattr("fleet.control.recovery.watchdog.STALLED_AFTER_S", 0.2)
    nc = await nats.connect(nats_url)
    health = Health("test")
    dog = await watching(nc, Settings(limits=Limits(max_waiting_requests=2)), health)
    task = asyncio.create_task(dog.run())
    for _ in range(2):
        await nc.jetstream().publish(subjects.REQUESTED, json.dumps({"task_description": "x"}).encode())
    await problems(health, "stream DELIBERATION_REQUESTS is full", "consumer dispatcher does not deliver")
    await nc.jetstream().purge_stream(subjects.DELIBERATION_REQUESTS)
    await problems(health)
    task.cancel()
    await nc.close()
