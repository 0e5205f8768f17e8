"""One worker between a real nats-server and the simulated model server; the control plane is played by the test."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from nats.aio.msg import Msg

from fleet import subjects
from fleet.errors import AgentCallError
from fleet.jetstream.payloads import Texts
from fleet.jetstream.topology import WORKERS_MAX_DELIVER
from fleet.local.nats_server import EmbeddedNats
from fleet.messages import ChatMessage, ContentRef, Policy
from tests.support.waiting import WITHIN_S, until
from tests.support.workers.calls import ask, client, complete
from tests.support.workers.fake_control_plane import SLOW, Plane, request, settings, working
from workers.calls.publisher import age_s
from workers.calls.worker import AgentWorker
from workers.llm.retry import ATTEMPTS_PER_DELIVERY
from workers.simulator.server import Faults, Simulator, SimulatorConfig

DAY_S = 86_400
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
POINTS = {"type": "array", "items": {"type": "string"}, "maxItems": 2}
CRITIQUE = {
    "type": "object",
    "properties": {"A": {"type": "object", "properties": {"strengths": POINTS}, "required": ["strengths"]}},
    "required": ["A"],
}


async def test_a_proposal_is_published_with_its_headers_and_then_acknowledged(plane: Plane) -> None:
    """The trace of the request goes on; ids are deterministic."""
    async with Simulator() as simulator, working(plane, simulator) as worker:
        await plane.submit(request(revisions=2), traceparent=TRACE)
        msg = await plane.next(subjects.AGENT_COMPLETED)
        await plane.settled()
        await until(lambda: worker.status().open_calls == 0)
        assert (worker.status().done, worker.status().failed) == (1, 0)
        (call,) = simulator.calls()
    body = json.loads(msg.data)
    assert (body["status"], body["task_id"], body["attempt"]) == ("completed", "t", 1)
    assert body["correlation"] == {"story": "S-17"}
    proposal = body["proposal"]
    assert proposal["content"]
    assert (proposal["author_id"], proposal["model"], proposal["revisions"]) == ("agent-dev-001", "simulated", 2)
    assert proposal["tokens"] == body["usage"]["completion_tokens"] > 0
    assert msg.headers["Nats-Msg-Id"] == msg.headers["ce-id"] == "t.0.propose.agent-dev-001.1"
    assert (msg.headers["ce-type"], msg.headers["ce-source"]) == (subjects.AGENT_COMPLETED, "/fleet/worker")
    assert msg.headers["Task-Id"] == "t"
    assert msg.headers["traceparent"].split("-")[1] == TRACE.split("-")[1]
    assert msg.headers["traceparent"] != TRACE
    assert b"You are a developer." in bytes(call.body)  # type: ignore[arg-type]


async def test_a_critique_is_mapped_to_authors(plane: Plane) -> None:
    """Labels are the prompt's; the answer speaks of authors."""
    async with Simulator() as simulator, working(plane, simulator):
        await plane.submit(request(phase="critique", round=1, answer_schema=CRITIQUE, labels={"A": "agent-dev-002"}))
        body = json.loads((await plane.next(subjects.AGENT_COMPLETED)).data)
    assert [critique["author_id"] for critique in body["critiques"]] == ["agent-dev-002"]
    assert body["proposal"] is None


async def test_each_phase_fills_its_own_field(plane: Plane) -> None:
    """A choice names an author; a synthesis its sources, in their order."""
    labels = {"A": "agent-dev-003", "B": "agent-dev-002"}
    schema = {"type": "object", "properties": {"rationale": {"type": "string"}, "best": {"const": "B"}}}
    async with Simulator() as simulator, working(plane, simulator):
        for phase in ("vote", "compare", "choose"):
            await plane.submit(request(phase=phase, answer_schema=schema, labels=labels))
        await plane.submit(request(phase="synthesise", labels=labels))
        await plane.next(subjects.AGENT_COMPLETED, 4)
    bodies = {body["phase"]: body for body in map(json.loads, (m.data for m in plane.of(subjects.AGENT_COMPLETED)))}
    merged = bodies.pop("synthesise")
    assert {body["choice"]["author_id"] for body in bodies.values()} == {"agent-dev-002"}
    assert merged["synthesis"]["sources"] == ["agent-dev-003", "agent-dev-002"]
    assert (merged["synthesis"]["author_id"], merged["synthesis"]["model"]) == ("agent-dev-001", "simulated")
    assert merged["synthesis"]["content"]
    assert merged["synthesis"]["tokens"] == merged["usage"]["completion_tokens"]
    assert (merged["proposal"], merged["checks"]) == (None, {})


async def test_a_proposal_is_checked(plane: Plane) -> None:
    """Against the client's patterns, among others."""
    async with Simulator() as simulator, working(plane, simulator):
        await plane.submit(request(policy=Policy(required=("no such words",))))
        body = json.loads((await plane.next(subjects.AGENT_COMPLETED)).data)
    assert body["checks"]["policy"]["status"] == "failed"


async def test_a_declined_revision_has_a_reason_and_no_proposal(plane: Plane) -> None:
    """There is nothing new to check."""
    offered = (ChatMessage(role="user", content="Revise, or answer DECLINE: and a reason"),)
    async with Simulator(SimulatorConfig(declines=1.0)) as simulator, working(plane, simulator):
        await plane.submit(request(phase="revise", round=1, messages=offered))
        body = json.loads((await plane.next(subjects.AGENT_COMPLETED)).data)
    assert body["declined"].startswith("[simulated] ")
    assert (body["proposal"], body["checks"]) == (None, {})


async def test_reasoning_travels_beside_the_answer(plane: Plane) -> None:
    """It is no part of the proposal, nor of the progress."""
    async with Simulator(SimulatorConfig(reasoning_tokens=30)) as simulator, working(plane, simulator):
        await plane.submit(request())
        body = json.loads((await plane.next(subjects.AGENT_COMPLETED)).data)
    text = "".join(json.loads(msg.data)["text_delta"] for msg in plane.of(subjects.AGENT_PROGRESS))
    assert text == body["proposal"]["content"]
    assert body["reasoning"].startswith("[simulated] ")
    assert body["proposal"]["tokens"] == body["usage"]["completion_tokens"] > 30


async def test_questions_to_one_agent_in_one_phase_are_told_apart(plane: Plane) -> None:
    """In ids, responses and progress."""
    async with Simulator() as simulator, working(plane, simulator):
        for number in (1, 2):
            await plane.submit(request(question=number))
        await plane.next(subjects.AGENT_COMPLETED, 2)
        assert {call.request_id for call in simulator.calls()} == {
            "t.0.propose.agent-dev-001.1",
            "t.0.propose.agent-dev-001~2.1",
        }
    for subject in (subjects.AGENT_COMPLETED, subjects.AGENT_PROGRESS):
        named = {(json.loads(m.data)["question"], m.headers["Nats-Msg-Id"].split(".")[3]) for m in plane.of(subject)}
        assert named == {(1, "agent-dev-001"), (2, "agent-dev-001~2")}


async def test_a_request_may_name_its_model(plane: Plane) -> None:
    """Before the role's, and the first that the server lists."""
    async with Simulator(SimulatorConfig(models=("first", "second"))) as simulator, working(plane, simulator):
        await plane.submit(request(model="second"))
        body = json.loads((await plane.next(subjects.AGENT_COMPLETED)).data)
    assert body["model"] == body["proposal"]["model"] == "second"


async def test_all_deltas_of_an_attempt_are_its_whole_text(plane: Plane) -> None:
    """And the last event says 100."""
    pace = SimulatorConfig(tokens_per_second=200, answer_tokens=100)
    async with Simulator(pace) as simulator, working(plane, simulator, progress_interval_ms=50):
        await plane.submit(request())
        content = json.loads((await plane.next(subjects.AGENT_COMPLETED)).data)["proposal"]["content"]
    events = [json.loads(msg.data) for msg in plane.of(subjects.AGENT_PROGRESS)]
    assert len(events) > 1
    assert "".join(event["text_delta"] for event in events) == content
    assert events[-1]["progress_pct"] == 100
    assert all(event["progress_pct"] < 100 for event in events[:-1])


async def test_texts_of_two_attempts_do_not_mix(plane: Plane) -> None:
    """A watcher tells them apart by `attempt`, and is told why."""
    faults = SimulatorConfig(faults=Faults(truncate=1.0, only_first=1))
    async with Simulator(faults) as simulator, working(plane, simulator):
        await plane.submit(request())
        body = json.loads((await plane.next(subjects.AGENT_COMPLETED)).data)
    events = [json.loads(msg.data) for msg in plane.of(subjects.AGENT_PROGRESS)]
    second = "".join(event["text_delta"] for event in events if event["attempt"] == 2)
    assert (body["attempt"], second) == (2, body["proposal"]["content"])
    assert {event["attempt"] for event in events} == {1, 2}


async def test_a_call_that_gives_up_says_why(plane: Plane) -> None:
    """As `agent.response.failed`."""
    async with Simulator(SimulatorConfig(faults=Faults(http_500=1.0))) as simulator:
        async with working(plane, simulator, max_attempts=2):
            await plane.submit(request())
            body = json.loads((await plane.next(subjects.AGENT_FAILED)).data)
            await plane.settled()
        assert simulator.requests == 2
    assert (body["error_type"], body["retryable"], body["attempt"]) == ("ServerError", True, 2)


async def test_what_is_no_request_is_buried_whole(plane: Plane) -> None:
    """And disturbs nothing else."""
    async with Simulator() as simulator, working(plane, simulator):
        await plane.js.publish(subjects.AGENT_REQUESTED, b"{oops", headers={"Origin": "x"})
        letter = await plane.next("deadletter.agent.requested")
        await plane.settled()
    assert letter.data == b"{oops"
    assert (letter.headers["Dead-Letter-Stream"], letter.headers["Dead-Letter-Sequence"]) == ("AGENT_REQUESTS", "1")
    assert letter.headers["Dead-Letter-Reason"]
    assert letter.headers["Origin"] == "x"


@pytest.mark.parametrize(
    "body",
    [
        b'{"task_id": "t", "phase": "unheard of", "num_agents": 3}',
        b'{"content_ref":{"bucket":"b","name":"n","bytes":1}}',
    ],
    ids=["undecodable", "its text is gone"],
)
async def test_a_call_that_nobody_can_make_is_answered_as_failed(
    plane: Plane, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its header names it, so its deliberation need not wait for the deadline."""
    monkeypatch.setattr("workers.calls.deliveries.leases.FIRST_DELAY_S", 0.01)
    async with Simulator() as simulator, working(plane, simulator):
        await plane.js.publish(subjects.AGENT_REQUESTED, body, headers={"Nats-Msg-Id": request(question=2).msg_id})
        failed = json.loads((await plane.next(subjects.AGENT_FAILED)).data)
        await plane.settled()
        assert simulator.requests == 0
    assert (failed["task_id"], failed["agent_id"], failed["question"]) == ("t", "agent-dev-001", 2)
    assert (failed["error_type"], failed["retryable"]) == ("Undeliverable", False)
    assert plane.of("deadletter.agent.requested")[0].data == body


async def test_stop_closes_open_calls_and_nothing_is_published(plane: Plane) -> None:
    """The model stops generating; queued calls of the task are not run."""
    async with Simulator(SLOW) as simulator, working(plane, simulator) as worker:
        await plane.submit(request())
        await plane.next(subjects.AGENT_PROGRESS)
        await plane.put_state("CANCELLED")
        await plane.nc.publish(subjects.AGENT_STOP, b'{"task_id":"t"}')
        await plane.settled()
        await until(lambda: simulator.aborted == 1)
        await plane.submit(request(agent_id="agent-dev-002"))
        await plane.settled()
        assert (simulator.requests, worker.status().done, worker.status().failed) == (1, 0, 0)
    assert not plane.of(subjects.AGENT_COMPLETED) + plane.of(subjects.AGENT_FAILED)


async def test_a_stop_that_the_state_does_not_tell_is_looked_at_again(plane: Plane) -> None:
    """Whoever said it: a task that goes on keeps its calls, and one that ends a moment later loses them."""
    async with Simulator(SLOW) as simulator, working(plane, simulator) as worker:
        await plane.put_state()
        await plane.submit(request())
        await plane.next(subjects.AGENT_PROGRESS)
        await plane.nc.publish(subjects.AGENT_STOP, b'{"task_id":"t"}')
        await until(lambda: any(lease.may_be_duplicate for lease in worker._leases.all()))
        assert simulator.aborted == 0
        await plane.put_state("CANCELLED")
        await plane.settled()
        await until(lambda: simulator.aborted == 1)


async def test_an_id_that_was_stopped_long_ago_can_be_asked_for_again(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its state has expired meanwhile; calls of its first life are on their way no longer."""
    async with Simulator() as simulator, working(plane, simulator) as worker:
        await plane.put_state("CANCELLED")
        await plane.nc.publish(subjects.AGENT_STOP, b'{"task_id":"t"}')
        await until(lambda: worker._leases.stopped(request()))
        await plane.bucket.delete("t")
        await plane.submit(request())
        await plane.settled()
        assert not simulator.calls()
        monkeypatch.setattr("workers.calls.deliveries.leases.REMEMBERED_FOR_S", 0.0)
        await plane.submit(request())
        await plane.next(subjects.AGENT_COMPLETED)


async def test_a_call_past_its_deadline_is_not_run(plane: Plane) -> None:
    """The collector's own deadline has spoken."""
    async with Simulator() as simulator, working(plane, simulator):
        await plane.submit(request(deadline_at="2026-01-01T00:00:00.000Z"))
        await plane.settled()
        assert simulator.requests == 0
    assert not plane.of(subjects.AGENT_FAILED)


async def test_a_call_past_its_deadline_whose_task_goes_on_ends_it(plane: Plane) -> None:
    """The deadline's own message was lost: NATS cannot store it while the disk is full, and does not try again."""
    await plane.put_state()
    async with Simulator() as simulator, working(plane, simulator):
        await plane.submit(request(deadline_at="2026-01-01T00:00:00.000Z"))
        body = json.loads((await plane.next(subjects.AGENT_FAILED)).data)
        await plane.settled()
        assert simulator.requests == 0
    assert (body["error_type"], body["retryable"]) == ("DeadlineExceeded", False)


async def test_a_redelivered_call_whose_slot_is_filled_is_not_run_again(plane: Plane) -> None:
    """A duplicate costs no GPU time."""
    await plane.submit(request())
    taken = await plane.js.pull_subscribe_bind(subjects.WORKERS, stream=subjects.AGENT_REQUESTS)
    (msg,) = await taken.fetch(1)
    await plane.put_state(calls="completed")
    await msg.nak()
    await taken.unsubscribe()
    async with Simulator() as simulator, working(plane, simulator):
        await plane.settled()
        assert simulator.requests == 0


async def test_a_redelivered_call_with_an_open_slot_is_run_with_attempts_numbered_on(plane: Plane) -> None:
    """What a first delivery may have said does not mix with this one's text."""
    await plane.put_state()
    await plane.submit(request())
    taken = await plane.js.pull_subscribe_bind(subjects.WORKERS, stream=subjects.AGENT_REQUESTS)
    (msg,) = await taken.fetch(1)
    await msg.nak()
    await taken.unsubscribe()
    async with Simulator() as simulator, working(plane, simulator, max_attempts=4):
        body = json.loads((await plane.next(subjects.AGENT_COMPLETED)).data)
    assert body["attempt"] == 1 + ATTEMPTS_PER_DELIVERY


async def test_a_call_that_was_published_again_shares_no_attempt_with_the_first(plane: Plane) -> None:
    """Its stream was lost: deliveries are counted from 1 again, and its texts must not mix with earlier ones."""
    async with Simulator() as simulator, working(plane, simulator):
        await plane.submit(request())
        await plane.next(subjects.AGENT_COMPLETED)
        await plane.submit(request(attempt=2))
        again = json.loads((await plane.next(subjects.AGENT_COMPLETED, 2)).data)
        await plane.settled()
    attempts = {json.loads(msg.data)["attempt"] for msg in plane.of(subjects.AGENT_PROGRESS)}
    assert again["attempt"] == 1 + WORKERS_MAX_DELIVER * ATTEMPTS_PER_DELIVERY
    assert attempts == {1, again["attempt"]}


@pytest.mark.parametrize(
    "target",
    [
        "workers.calls.deliveries.leases.Leases.all",
        "workers.calls.deliveries.duplicates.DuplicateWatch._end_unneeded",
        "workers.calls.deliveries.pull_consumer.PullConsumer._step",
    ],
)
async def test_a_background_task_that_fails_ends_the_worker(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """Without it calls would run twice, or never: its process ends with the error."""

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    async with Simulator() as simulator, working(plane, simulator) as worker:
        monkeypatch.setattr(target, fail)
        with pytest.raises(ZeroDivisionError):
            async with asyncio.timeout(WITHIN_S):
                await worker.ended


async def test_a_clock_that_is_off_is_off_for_all_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same clock tells a call's deadline, how long its message waited, and whether it is over before it begins."""
    monkeypatch.setattr("fleet.clock._OFFSET_MS", DAY_S * 1000)
    msg = SimpleNamespace(metadata=SimpleNamespace(timestamp=datetime.now(UTC)))
    assert age_s(cast(Msg, msg)) > DAY_S - 1
    async with Simulator() as simulator, client(simulator.url) as made:
        with pytest.raises(AgentCallError) as raised:
            await complete(made, ask())
        assert simulator.requests == 0
    assert raised.value.error_type == "DeadlineExceeded"


async def test_a_long_call_keeps_its_lease(plane: Plane) -> None:
    """Longer than `ack_wait`, and delivered once."""
    pace = SimulatorConfig(tokens_per_second=20, answer_tokens=80)
    async with Simulator(pace) as simulator, working(plane, simulator):
        await plane.submit(request())
        await plane.next(subjects.AGENT_COMPLETED)
        await plane.settled()
        assert simulator.requests == 1


async def test_stop_hands_back_what_does_not_finish(plane: Plane) -> None:
    """Another worker takes it at once."""
    await plane.put_state()
    async with Simulator(SLOW) as slow, Simulator() as quick:
        async with AgentWorker.open(settings(plane, slow), "first"):
            await plane.submit(request())
            await plane.next(subjects.AGENT_PROGRESS)
        async with working(plane, quick):
            body = json.loads((await plane.next(subjects.AGENT_COMPLETED)).data)
    assert body["attempt"] == 1 + ATTEMPTS_PER_DELIVERY


async def test_stop_lets_open_calls_finish_within_the_grace(plane: Plane) -> None:
    """Nothing is lost."""
    pace = SimulatorConfig(tokens_per_second=100, answer_tokens=60)
    async with Simulator(pace) as simulator, AgentWorker.open(settings(plane, simulator), "worker") as worker:
        await plane.submit(request())
        await plane.next(subjects.AGENT_PROGRESS)
        await worker.finish(30)
    await plane.next(subjects.AGENT_COMPLETED)
    await plane.settled()


async def test_more_calls_than_capacity_are_all_done_and_never_too_many_at_once(plane: Plane) -> None:
    """Demand follows free capacity."""
    most = 0
    async with (
        Simulator(SimulatorConfig(latency_ms=5)) as simulator,
        working(plane, simulator, calls_per_worker=4) as worker,
    ):
        for number in range(60):
            await plane.submit(request(agent_id=f"agent-dev-{number:03d}"))
            most = max(most, worker.status().open_calls)
        await plane.next(subjects.AGENT_COMPLETED, 60)
        await plane.settled()
        assert (simulator.requests, worker.status().done) == (60, 60)
    assert 0 < most <= 4


async def test_a_worker_waits_for_a_consumer_that_is_not_there_yet(plane: Plane) -> None:
    """And works once it is, also when it was deleted under it."""
    await plane.js.delete_consumer(subjects.AGENT_REQUESTS, subjects.WORKERS)
    async with Simulator() as simulator, working(plane, simulator):
        await plane.add_consumer()
        await plane.submit(request())
        await plane.next(subjects.AGENT_COMPLETED)
        await plane.js.delete_consumer(subjects.AGENT_REQUESTS, subjects.WORKERS)
        await plane.add_consumer()
        await plane.submit(request(agent_id="agent-dev-002"))
        await plane.next(subjects.AGENT_COMPLETED, 2)


async def test_a_worker_that_is_not_served_says_so(plane: Plane) -> None:
    """Its silence grows while there is no consumer, however often it asks, and ends with it."""
    await plane.js.delete_consumer(subjects.AGENT_REQUESTS, subjects.WORKERS)
    async with Simulator() as simulator, working(plane, simulator) as worker:
        await until(lambda: worker.status().last_fetch_age_s > 1)
        await plane.add_consumer()
        await plane.submit(request())
        await plane.next(subjects.AGENT_COMPLETED)
        await until(lambda: worker.status().last_fetch_age_s < 1)


async def test_after_a_restart_of_nats_work_goes_on_and_ended_tasks_are_stopped(tmp_path: Path) -> None:
    """An `agent.stop` that was missed is found in the state."""
    server = EmbeddedNats(tmp_path)
    await server.start()
    plane = Plane(server.url)
    await plane.open()
    try:
        async with Simulator(SLOW) as simulator, working(plane, simulator):
            await plane.put_state()
            await plane.submit(request())
            await plane.next(subjects.AGENT_PROGRESS)
            await plane.put_state(status="CANCELLED")
            await server.stop()
            await server.start()
            await until(lambda: simulator.aborted == 1)
            await until(lambda: plane.nc.is_connected)
            await plane.settled()
            await plane.submit(request(task_id="u"))
            await until(lambda: simulator.requests == 2)
    finally:
        await plane.nc.close()
        await server.stop()


async def test_an_answer_beyond_the_payload_limit_travels_by_reference(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole: the message that comes refers to it."""
    monkeypatch.setattr("fleet.jetstream.payloads.Texts.too_large", lambda self, body: len(body) > 200)
    async with Simulator() as simulator, working(plane, simulator):
        await plane.submit(request())
        msg = await plane.next(subjects.AGENT_COMPLETED)
    body = json.loads(msg.data)
    stored = json.loads(await Texts(plane.js, plane.nc.max_payload).get(ContentRef(**body["content_ref"])))
    assert (body["task_id"], body["status"]) == ("t", "completed")
    assert stored["proposal"]["content"]


async def test_what_calls_share_is_fetched_and_asked(plane: Plane) -> None:
    """The model is sent the whole prompt, although its beginning lies in the object store."""
    texts = Texts(plane.js, plane.nc.max_payload)
    ref = await texts.put("calls/t/shared", b"You are one of several experts: caf\xc3\xa9.")
    async with Simulator() as simulator, working(plane, simulator):
        for number in (1, 2):
            await plane.submit(request(question=number).with_shared("", ref))
        await plane.next(subjects.AGENT_COMPLETED, 2)
        bodies = [bytes(call.body).decode() for call in simulator.calls()]  # type: ignore[arg-type]
    assert len(bodies) == 2
    assert all("You are one of several experts: café." in body for body in bodies)


async def test_a_call_whose_shared_text_is_gone_is_answered_as_failed(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not made without it."""
    monkeypatch.setattr("workers.calls.deliveries.leases.FIRST_DELAY_S", 0.01)
    ref = ContentRef(bucket=subjects.TEXTS, name="calls/t/shared-0", bytes=9)
    async with Simulator() as simulator, working(plane, simulator):
        await plane.submit(request().with_shared("", ref), **{"Nats-Msg-Id": request().msg_id})
        failed = json.loads((await plane.next(subjects.AGENT_FAILED)).data)
        assert simulator.requests == 0
    assert failed["error_type"] == "Undeliverable"


async def test_an_unknown_role_fails_the_call_at_once(plane: Plane) -> None:
    """Without asking the model."""
    async with Simulator() as simulator, working(plane, simulator):
        await plane.submit(request(role="POET"))
        body = json.loads((await plane.next(subjects.AGENT_FAILED)).data)
        assert simulator.requests == 0
    assert (body["error_type"], body["retryable"]) == ("UnknownRole", False)
