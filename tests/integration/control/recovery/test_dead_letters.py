"""Messages that nobody can handle, on a real nats-server: kept once, whole, and whoever waits for them is told."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
from nats.js.api import ConsumerConfig

from fleet import subjects
from fleet.config import load
from fleet.control.call_tokens import CallTokens
from fleet.control.publishing.outbox import Outbox
from fleet.control.recovery.dead_letters import DeadLetters, UndeliverableMessage
from fleet.control.states.store import KeyValueStore
from fleet.deliberation.events import CallAgent, Requested, Responded
from fleet.deliberation.machine import decide
from fleet.jetstream import topology
from fleet.jetstream.origin import run_of
from fleet.jetstream.payloads import Texts
from fleet.jetstream.streams import STREAMS, ConsumerSpec
from fleet.messages import AgentCompleted, AgentRequested, encode
from fleet.messages.headers import CALL_TOKEN
from fleet.requests.task import Task
from tests.support import agents
from tests.support.fleets.control_plane import Fleet, running
from tests.support.runner import make_runner
from tests.support.waiting import WITHIN_S, until, until_emptied

POISONED = "agent-dev-001"
CALL_ID = "t-1.0.propose.agent-dev-001.1"


def consumer_of(stream: str) -> ConsumerSpec:
    return next(spec.consumer for spec in STREAMS if spec.name == stream and spec.consumer is not None)


class Stage:
    """The streams of a fleet none of whose processes runs, except what the test starts."""

    def __init__(self, nc: Any) -> None:
        self.nc = nc
        self.js = nc.jetstream()
        self.settings = load({})

    async def dead_letters(self) -> DeadLetters:
        texts = Texts(self.js, self.nc.max_payload)
        store = await KeyValueStore.open(self.js, texts)
        tokens = await CallTokens.open(self.js)
        outbox = Outbox(self.nc, self.js, texts, "collector", tokens)
        return DeadLetters(self.nc, self.js, store, outbox, make_runner(store, outbox), tokens)

    async def exhaust(self, stream: str) -> None:
        """Delivers what is in the stream as often as its consumer allows, to one that says nothing; then waits until
        NATS has given it up.
        """
        spec = consumer_of(stream)
        consumer, subject = spec.name, spec.filter
        given_up: asyncio.Queue[Any] = asyncio.Queue()
        advisories = await self.nc.subscribe(subjects.exhausted(stream, consumer), cb=given_up.put)
        await self.js.delete_consumer(stream, consumer)
        hasty = ConsumerConfig(durable_name=consumer, filter_subject=subject, ack_wait=0.05, max_deliver=2)
        await self.js.add_consumer(stream, hasty)
        waiting = (await self.js.stream_info(stream)).state.messages
        pull = await self.js.pull_subscribe_bind(consumer, stream=stream)
        async with asyncio.timeout(WITHIN_S):
            for _ in range(2 * waiting):
                await pull.fetch(1, timeout=WITHIN_S)
            asking = asyncio.create_task(pull.fetch(1, timeout=WITHIN_S))
            for _ in range(waiting):
                await given_up.get()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await pull.unsubscribe()
        await advisories.unsubscribe()

    async def count(self, stream: str) -> int:
        return int((await self.js.stream_info(stream)).state.messages)

    async def emptied(self, stream: str) -> None:
        await until_emptied(self.js, stream)

    async def last(self, stream: str, subject: str) -> tuple[dict[str, Any], dict[str, str]]:
        found = await self.js.get_last_msg(stream, subject)
        return json.loads(found.data), found.headers


@pytest.fixture
async def stage(nats_url: str) -> AsyncIterator[Stage]:
    nc = await nats.connect(nats_url)
    made = Stage(nc)
    await topology.declare(made.js, made.settings)
    yield made
    await nc.close()


async def look(dead_letters: DeadLetters, stream: str) -> None:
    await dead_letters.look(stream, consumer_of(stream))


async def test_an_exhausted_call_is_kept_taken_off_and_answered_as_failed(stage: Stage) -> None:
    """Its deliberation does not wait for the deadline; the advisory was missed, so the work queue was looked into."""
    body = b'{"num_agents": 3, "correlation": {"story": "S-1"}, "oops"'
    await stage.js.publish(subjects.AGENT_REQUESTED, body, headers={"Nats-Msg-Id": CALL_ID, "Origin": "x"})
    await stage.exhaust(subjects.AGENT_REQUESTS)
    await look(await stage.dead_letters(), subjects.AGENT_REQUESTS)
    assert await stage.count(subjects.AGENT_REQUESTS) == 0
    letter = await stage.js.get_last_msg(subjects.DEAD_LETTERS, f"deadletter.{subjects.AGENT_REQUESTED}")
    assert letter.data == body
    assert letter.headers["Origin"] == "x"
    assert (letter.headers["Dead-Letter-Stream"], letter.headers["Dead-Letter-Sequence"]) == ("AGENT_REQUESTS", "1")
    assert "exhausted" in letter.headers["Dead-Letter-Reason"]
    failed, headers = await stage.last(subjects.AGENT_RESPONSES, subjects.AGENT_FAILED)
    assert (failed["task_id"], failed["agent_id"], failed["role"]) == ("t-1", "agent-dev-001", "DEV")
    assert (failed["error_type"], failed["phase"], failed["round"]) == ("Undeliverable", "propose", 0)
    assert headers["Nats-Msg-Id"] == f"{CALL_ID}.undeliverable"


async def test_an_advisory_is_enough(stage: Stage) -> None:
    """Within moments, without a look."""
    dead_letters = await stage.dead_letters()
    await dead_letters.start()
    await stage.js.publish(subjects.AGENT_REQUESTED, b"{oops")
    await stage.exhaust(subjects.AGENT_REQUESTS)
    await stage.emptied(subjects.AGENT_REQUESTS)
    assert await stage.count(subjects.DEAD_LETTERS) == 1


async def test_replicas_keep_an_exhausted_message_once(stage: Stage) -> None:
    """Whether they hear of it or find it, at the same time or one after the other."""
    replicas = [await stage.dead_letters() for _ in range(4)]
    for replica in replicas:
        await replica.start()
    for number in range(5):
        await stage.js.publish(subjects.AGENT_REQUESTED, f"{{oops {number}".encode())
    await stage.exhaust(subjects.AGENT_REQUESTS)
    for _ in range(2):
        await asyncio.gather(*(look(replica, subjects.AGENT_REQUESTS) for replica in replicas))
    assert await stage.count(subjects.AGENT_REQUESTS) == 0
    assert await stage.count(subjects.DEAD_LETTERS) == 5


async def test_nothing_is_remembered_of_a_message_that_another_process_took_off(stage: Stage) -> None:
    """It is remembered from one look to the next; once it is gone, no longer."""
    one, other = await stage.dead_letters(), await stage.dead_letters()
    for number in range(3):
        await stage.js.publish(subjects.AGENT_REQUESTED, f"{{oops {number}".encode())
    await stage.exhaust(subjects.AGENT_REQUESTS)
    for sequence in (1, 2, 3):
        raw = await stage.js.get_msg(subjects.AGENT_REQUESTS, sequence)
        message = UndeliverableMessage(
            subjects.AGENT_REQUESTS, sequence, run_of(raw), raw.subject or "", raw.data or b"", None
        )
        await other.store(message, "stored, and not yet taken off")
    await look(one, subjects.AGENT_REQUESTS)
    assert one.left_to_others == 3
    for sequence in (1, 2, 3):
        await stage.js.delete_msg(subjects.AGENT_REQUESTS, sequence)
    await look(one, subjects.AGENT_REQUESTS)
    assert one.left_to_others == 0


async def test_what_is_worked_on_or_waits_is_left_alone(stage: Stage) -> None:
    """A call may run for an hour: only what the consumer waits for no more is exhausted."""
    dead_letters = await stage.dead_letters()
    for _ in range(3):
        await stage.js.publish(subjects.AGENT_REQUESTED, b"{}")
    pull = await stage.js.pull_subscribe_bind(subjects.WORKERS, stream=subjects.AGENT_REQUESTS)
    first, second = await pull.fetch(2)
    await second.ack_sync()
    await look(dead_letters, subjects.AGENT_REQUESTS)
    assert await stage.count(subjects.AGENT_REQUESTS) == 2
    assert await stage.count(subjects.DEAD_LETTERS) == 0
    await first.ack_sync()
    await pull.unsubscribe()


async def test_an_exhausted_request_that_was_never_recorded_is_rejected(stage: Stage) -> None:
    """Its client hears that the fleet could not handle it."""
    await stage.js.publish(subjects.REQUESTED, b'{"task_description": "x", "correlation": {"story": "S-1"}}')
    await stage.exhaust(subjects.DELIBERATION_REQUESTS)
    await look(await stage.dead_letters(), subjects.DELIBERATION_REQUESTS)
    rejected, _ = await stage.last(subjects.DELIBERATIONS, subjects.REJECTED)
    assert (rejected["task_id"], rejected["code"], rejected["stream_sequence"]) == ("d-1", "undeliverable", 1)
    assert rejected["correlation"] == {"story": "S-1"}
    assert await stage.count(subjects.DELIBERATION_REQUESTS) == 0


async def test_an_exhausted_request_that_was_recorded_gets_what_it_is_owed(stage: Stage) -> None:
    """Its process died each time between saving and publishing: the deadline and the calls go out now."""
    await stage.js.publish(subjects.REQUESTED, b'{"task_id": "t-1", "task_description": "x"}')
    dead_letters = await stage.dead_letters()
    store = await KeyValueStore.open(stage.js, Texts(stage.js, stage.nc.max_payload))
    begun = decide(None, Requested("t-1", Task(task_description="x"), 1, 1_767_225_600_000))
    await store.save(begun.state, 0)
    await stage.exhaust(subjects.DELIBERATION_REQUESTS)
    await look(dead_letters, subjects.DELIBERATION_REQUESTS)
    assert await stage.count(subjects.AGENT_REQUESTS) == len(
        [effect for effect in begun.outbox if isinstance(effect, CallAgent)]
    )
    assert await stage.count(subjects.DELIBERATION_CONTROL) == 1


async def test_an_answer_that_is_given_up_leaves_no_end_unsaid(stage: Stage) -> None:
    """It led to an end that was recorded, and was never published: that is done before it is let go."""
    dead_letters = await stage.dead_letters()
    store = await KeyValueStore.open(stage.js, Texts(stage.js, stage.nc.max_payload))
    begun = decide(None, Requested("t-1", Task(task_description="x", num_agents=1), 1, 1_767_225_600_000))
    (call,) = [effect.request for effect in begun.outbox if isinstance(effect, CallAgent)]
    response = agents.answer(call)
    ended = decide(begun.state, Responded(response, 1_767_225_601_000)).state
    await store.save(ended.change(written_by="gone"), 0)
    message = UndeliverableMessage(
        subjects.AGENT_RESPONSES, 1, "", subjects.AGENT_COMPLETED, encode(response), {"Task-Id": "t-1"}
    )
    await dead_letters.give_up(message, "failed 50 times")
    await dead_letters.give_up(message, "failed 50 times")
    completed, _ = await stage.last(subjects.DELIBERATIONS, subjects.COMPLETED)
    assert completed["task_id"] == "t-1"
    assert await stage.count(subjects.DELIBERATIONS) == 1


async def test_an_exhausted_deadline_is_tried_anew_while_its_task_runs(stage: Stage) -> None:
    """Without it the task might never end."""
    store = await KeyValueStore.open(stage.js, Texts(stage.js, stage.nc.max_payload))
    await store.save(decide(None, Requested("t-1", Task(task_description="x"), 1, 1_767_225_600_000)).state, 0)
    for task_id in ("t-1", "nobody"):
        await stage.js.publish(subjects.CONTROL_DEADLINE, json.dumps({"task_id": task_id}).encode())
    await stage.exhaust(subjects.DELIBERATION_CONTROL)
    await look(await stage.dead_letters(), subjects.DELIBERATION_CONTROL)
    left, _ = await stage.last(subjects.DELIBERATION_CONTROL, subjects.schedule_of("t-1"))
    assert left == {"task_id": "t-1", "run": ""}
    assert await stage.count(subjects.DELIBERATION_CONTROL) == 1


async def settled(fleet: Fleet, task_id: str) -> dict[str, Any]:
    return await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)


async def test_a_poisoned_answer_fails_its_call_and_not_the_task(nats_url: str) -> None:
    """The call is named in its header; the task goes on without that answer."""
    calls: list[AgentRequested] = []

    def first_is_silent(call: AgentRequested) -> Any:
        calls.append(call)
        return None if call.agent_id.endswith("001") and call.phase == "propose" else agents.answer(call)

    async with running(nats_url, first_is_silent) as fleet:
        task_id = await fleet.request(rounds=0)
        await until(lambda: any(call.agent_id.endswith("001") for call in calls))  # played by the test
        js = fleet.nc.jetstream()
        call = next(call for call in calls if call.agent_id.endswith("001"))
        name, token = call.msg_id, (await CallTokens.open(js)).of(call)
        of_nobody, of_its_worker = ({"Nats-Msg-Id": name}, {"Nats-Msg-Id": f"{name}.{token}", CALL_TOKEN: token})
        await js.publish(subjects.AGENT_COMPLETED, b'{"broken', headers=of_nobody)
        await js.publish(subjects.AGENT_COMPLETED, b'{"broken', headers=of_its_worker)
        done = await settled(fleet, task_id)
    assert [(call["agent_id"], call["error_type"]) for call in done["failed_agents"]] == [
        ("agent-dev-001", "Undeliverable")
    ]
    assert done["successful_responses"] == 2


async def test_an_answer_that_breaks_its_handler_holds_up_nobody(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that came with it are applied, its own call fails, the task completes."""

    def breaks(state: Any, event: Any) -> Any:
        if (
            isinstance(event, Responded)
            and event.response.agent_id == POISONED
            and isinstance(event.response, AgentCompleted)
        ):
            raise ZeroDivisionError
        return decide(state, event)

    monkeypatch.setattr("fleet.control.states.folding.decide", breaks)
    monkeypatch.setattr("fleet.control.intake.RETRY_DELAYS_S", (0.01,))
    async with running(nats_url, agents.answer) as fleet:
        done = await settled(fleet, await fleet.request(rounds=0))
    assert [(call["agent_id"], call["error_type"]) for call in done["failed_agents"]] == [(POISONED, "Undeliverable")]
    assert done["successful_responses"] == 2
