"""The outbox on a real nats-server: exactly one terminal event, and what is too large goes by reference."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from typing import Any

import nats
import nats.errors
import pytest
from msgspec.structs import replace
from nats.js.api import DiscardPolicy
from nats.js.errors import NotFoundError

from fleet import subjects
from fleet.clock import now_ms
from fleet.config import load
from fleet.control.call_tokens import CallTokens
from fleet.control.publishing import schedules
from fleet.control.publishing.outbox import Outbox
from fleet.control.publishing.terminal_events import publish_end
from fleet.control.states.store import KeyValueStore
from fleet.deliberation.events import CallAgent, Requested, Responded
from fleet.deliberation.machine import decide, due, recover
from fleet.deliberation.state import Deliberation
from fleet.errors import EventInFlight
from fleet.jetstream import topology
from fleet.jetstream.payloads import Texts
from fleet.messages import AgentRequested, Policy, decode, encode
from fleet.requests.task import Task
from fleet.times import rfc3339
from tests.support.agents import answer
from tests.support.council import run_to_end
from tests.support.waiting import until
from workers.calls.publisher import WorkerPublisher

NOW = 1_767_225_600_000


@pytest.fixture
async def nc(nats_url: str) -> AsyncIterator[Any]:
    connection = await nats.connect(nats_url)
    await topology.declare(connection.jetstream(), load({}))
    yield connection
    await connection.close()


def ended(task_id: str = "t-1", description: str = "Build it") -> Deliberation:
    """A completed deliberation of one agent."""
    begun = decide(None, Requested(task_id, Task(task_description=description, num_agents=1), 7, NOW))
    (call,) = [effect.request for effect in begun.outbox if isinstance(effect, CallAgent)]
    return decide(begun.state, Responded(answer(call), NOW + 1000)).state


async def say(nc: Any, state: Deliberation, **more: Any) -> None:
    """Publishes what an ended state owes, as the process that decided it."""
    made = outbox(nc, **more)
    await made.publish(state.change(written_by=made.instance), due(state))


async def say_again(nc: Any, state: Deliberation) -> None:
    """As another process does that finds it, on record, after a crash."""
    js = nc.jetstream()
    store = await KeyValueStore.open(js, Texts(js, nc.max_payload))
    stored = await store.load(state.task_id) or await store.save(state, 0)
    await publish_end(store, outbox(nc), stored, due(state))


def outbox(nc: Any, *, max_payload: int | None = None) -> Outbox:
    js = nc.jetstream()
    return Outbox(nc, js, Texts(js, max_payload or nc.max_payload), "collector", CallTokens(js, b"a key"))


async def test_terminal_event_published_again_reaches_nobody_twice(nc: Any) -> None:
    """After a crash it is looked for first: the stream holds one, and core subscribers see one."""
    seen: list[bytes] = []

    async def take(msg: Any) -> None:
        seen.append(msg.data)

    await nc.subscribe(subjects.COMPLETED, cb=take)
    for number in range(3):
        await say(nc, ended(f"other-{number}"))
    await say(nc, ended())
    await say_again(nc, ended())
    await nc.flush()
    await nc.flush()
    assert [json.loads(body)["task_id"] for body in seen].count("t-1") == 1
    assert (await nc.jetstream().stream_info(subjects.DELIBERATIONS)).state.messages == 4


async def test_a_task_whose_calls_cannot_be_stored_has_its_deadline_nevertheless(nc: Any) -> None:
    """And its acceptance is said; whoever published hears of the failure, and tries again."""
    js = nc.jetstream()
    requests = (await js.stream_info(subjects.AGENT_REQUESTS)).config
    await js.update_stream(requests.evolve(max_msgs=1, discard=DiscardPolicy.NEW))
    begun = decide(None, Requested("t-1", Task(task_description="Build it", num_agents=3), 7, NOW))
    for _ in range(2):
        with pytest.raises(nats.errors.Error):
            await outbox(nc).publish(begun.state, begun.outbox)
    assert (await js.stream_info(subjects.DELIBERATIONS)).state.messages == 1
    assert (await js.get_last_msg(subjects.DELIBERATION_CONTROL, subjects.schedule_of("t-1"))).data
    await js.update_stream(requests)
    await outbox(nc).publish(begun.state, begun.outbox)
    assert (await js.stream_info(subjects.AGENT_REQUESTS)).state.messages == 3


async def test_a_deadline_that_is_stored_after_the_end_is_taken_back(nc: Any) -> None:
    """A call that is answered at once ends its task before the dispatcher has its deadline stored: it would keep a
    place among the deliberations in progress until it is due."""
    state = ended()
    collector = outbox(nc)
    await collector.publish(state.change(written_by=collector.instance), due(state))
    await outbox(nc).set_deadline(state, rfc3339(now_ms() + 3_600_000), "t-1.deadline")
    await until(lambda: schedule_is_gone(nc))


async def test_the_deadline_of_another_request_of_that_id_is_left(nc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever deletes a state may use its id again."""
    monkeypatch.setattr(schedules, "AGAIN_AFTER_S", (0.01,) * 10_000)  # until it is there
    state = ended()
    await schedules.Schedules(nc, nc.jetstream()).take_back(state)
    (look,) = [task for task in asyncio.all_tasks() if task.get_name() == "schedule t-1"]
    await outbox(nc).set_deadline(state.change(run="another"), rfc3339(now_ms() + 3_600_000), "t-1.deadline.another")
    await look
    assert not await schedule_is_gone(nc)


async def schedule_is_gone(nc: Any) -> bool:
    """Of the task `t-1`."""
    try:
        await nc.jetstream().get_last_msg(subjects.DELIBERATION_CONTROL, subjects.schedule_of("t-1"))
    except NotFoundError:
        return True
    return False


async def test_terminal_event_is_found_whatever_the_clock_of_who_decided_it(nc: Any) -> None:
    """Decided and published by a process that lives an hour ahead: the one that repairs it sees it."""
    seen: list[bytes] = []

    async def take(msg: Any) -> None:
        seen.append(msg.data)

    await nc.subscribe(subjects.COMPLETED, cb=take)
    state = ended()
    assert state.result is not None
    ahead = rfc3339(now_ms() + 3_600_000)
    state = state.change(result=replace(state.result, completed_at=ahead))
    js = nc.jetstream()
    await (await js.key_value(subjects.BUCKET)).create("t-1", encode(state))
    await say(nc, state)
    await say_again(nc, state)
    await nc.flush()
    assert len(seen) == 1


async def test_terminal_event_that_never_got_out_is_published(nc: Any) -> None:
    """Looked for after a crash, not found: published."""
    await say_again(nc, ended())
    assert (await nc.jetstream().stream_info(subjects.DELIBERATIONS)).state.messages == 1


async def test_an_end_is_said_by_none_but_the_connection_that_decided_it(nc: Any) -> None:
    """After a reconnect it has another name, and others may have heard that nobody is there: it looks first."""
    with pytest.raises(EventInFlight, match="earlier may publish it"):
        await outbox(nc).publish(ended().change(written_by="earlier"), due(ended()))
    assert (await nc.jetstream().stream_info(subjects.DELIBERATIONS)).state.messages == 0


async def test_an_end_that_cannot_be_stored_is_seen_by_nobody(nc: Any) -> None:
    """Its stream is away: it is published once that is back, and core subscribers see it once."""
    seen: list[bytes] = []

    async def take(msg: Any) -> None:
        seen.append(msg.data)

    await nc.subscribe(subjects.COMPLETED, cb=take)
    js = nc.jetstream()
    await js.delete_stream(subjects.DELIBERATIONS)
    with pytest.raises(nats.errors.Error):
        await say(nc, ended())
    await topology.declare(js, load({}))
    await say(nc, ended())
    await nc.flush()
    assert len(seen) == (await js.stream_info(subjects.DELIBERATIONS)).state.messages == 1


async def test_result_beyond_one_message_refers_to_its_texts(nc: Any) -> None:
    """The event fits, its proposal's text lies whole in the object store."""
    state = ended()
    assert state.result is not None
    text = "x" * 60_000
    (result,) = state.result.results  # type: ignore[union-attr]
    proposal = replace(result.proposal, content=text)
    state = state.change(result=replace(state.result, results=(replace(result, proposal=proposal),)))
    await say(nc, state, max_payload=32_768)
    js = nc.jetstream()
    event = json.loads((await js.get_msg(subjects.DELIBERATIONS, seq=1)).data)
    sent = event["results"][0]["proposal"]
    assert sent["content"] == ""
    assert sent["content_ref"]["bucket"] == subjects.TEXTS
    stored = await (await js.object_store(subjects.TEXTS)).get(sent["content_ref"]["name"])
    assert stored.data.decode() == text


async def test_what_all_calls_repeat_is_stored_once(nc: Any) -> None:
    """However many calls there are, in whatever phase; each is whole again for who makes it."""
    task = Task(
        task_description="y" * 60_000,
        num_agents=4,
        correlation={"story": "z" * 300},
        policy=Policy(required=("a" * 1000,) * 5),
        output_schema={"type": "object", "description": "d" * 5000},
    )
    begun = decide(None, Requested("t-1", task, 7, NOW))
    _, asked = run_to_end(begun)
    js = nc.jetstream()
    await outbox(nc).publish(begun.state, [CallAgent(call) for call in asked])
    objects = await (await js.object_store(subjects.TEXTS)).list()
    parts = (asked[0].shared.encode(), encode(task.policy), encode(task.output_schema), encode(task.correlation))
    assert sorted(info.size for info in objects) == sorted(map(len, parts))
    stored = await js.stream_info(subjects.AGENT_REQUESTS)
    assert stored.state.messages == len(asked) == 16
    worker = WorkerPublisher(nc)
    for sequence in range(1, 17):
        sent = decode((await js.get_msg(subjects.AGENT_REQUESTS, seq=sequence)).data, AgentRequested)
        assert len(encode(sent)) < 8_000
        (call,) = [call for call in asked if call.msg_id == sent.msg_id]
        whole = await worker.with_parts(sent)
        assert (whole.messages, whole.answer_schema, whole.policy) == (call.messages, call.answer_schema, call.policy)
        assert whole.correlation_ref is not None
        assert await worker.texts.get(whole.correlation_ref) == encode(task.correlation)


async def test_call_beyond_one_message_travels_whole(nc: Any) -> None:
    """A prompt larger than one message reaches the worker as it was."""
    begun = decide(None, Requested("t-1", Task(task_description="Design it", num_agents=1), 7, NOW))
    (call,) = [effect.request for effect in begun.outbox if isinstance(effect, CallAgent)]
    first, last = call.messages
    call = call.change(messages=(first, last.change(content="y" * 60_000)))
    await outbox(nc, max_payload=32_768).publish(begun.state, [CallAgent(call)])
    js = nc.jetstream()
    message = await js.get_msg(subjects.AGENT_REQUESTS, seq=1)
    assert len(message.data) < 1000
    assert decode(await Texts(js, 32_768).inline(message.data), AgentRequested) == call


async def test_where_calls_cannot_be_stopped_nothing_is_left_half_begun(
    nc: Any, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The acceptance that must be published too is, or is not: no coroutine is made and never awaited."""

    async def fails(*_: Any, **__: Any) -> None:
        raise ConnectionError

    state = ended().change(calls={"agent-dev-001": "open"})
    effects = recover(state, request_redelivered=True)
    monkeypatch.setattr(nc, "publish", fails)
    with pytest.raises((ConnectionError, nats.errors.Error)):
        await outbox(nc).publish(state, effects)
    gc.collect()
    assert [str(warning.message) for warning in recwarn if "never awaited" in str(warning.message)] == []
