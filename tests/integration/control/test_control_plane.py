"""Dispatcher, collector and service on a real nats-server; only the workers are stand-ins."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import structs

from fleet import subjects
from fleet.config import load
from fleet.messages import AgentRequested, AgentResponse
from fleet.messages.headers import CALL_TOKEN
from tests.support import agents
from tests.support.client.following import Follower
from tests.support.fleets.control_plane import Fleet, running
from tests.support.variants import some_of
from tests.support.waiting import WITHIN_S, until_emptied, until_stored


@pytest.fixture
async def fleet(nats_url: str) -> AsyncIterator[Fleet]:
    async with running(nats_url, agents.answer) as up:
        yield up


@pytest.fixture
async def silent(nats_url: str) -> AsyncIterator[Fleet]:
    """A fleet whose workers never answer."""
    async with running(nats_url, lambda call: None) as up:
        yield up


async def test_request_becomes_a_ranked_result(fleet: Fleet) -> None:
    """Accepted and completed, once each, with correlation, trace and CloudEvents headers; the id from the PubAck."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    ack = await fleet.nc.request(
        subjects.REQUESTED,
        b'{"task_description": "Design it", "correlation": {"story": "S-1"}, "unknown": 1}',
        headers={"traceparent": trace},
    )
    task_id = f"d-{json.loads(ack.data)['seq']}"
    done = await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)
    assert done["correlation"] == {"story": "S-1"}
    assert done["winner_id"] == "agent-dev-003"
    assert [result["rank"] for result in done["results"]] == [1, 2, 3]
    assert fleet.inbox.of(task_id) == [subjects.ACCEPTED, subjects.COMPLETED]
    headers = next(headers for subject, headers, _ in fleet.inbox.events if subject == subjects.COMPLETED)
    assert headers["Nats-Msg-Id"] == headers["ce-id"]
    assert headers["Nats-Msg-Id"].startswith(f"{task_id}.terminal.")
    assert (headers["ce-type"], headers["ce-source"]) == (subjects.COMPLETED, "/fleet/collector")
    assert headers["traceparent"].split("-")[1] == trace.split("-")[1]


async def test_state_is_readable_in_the_bucket(fleet: Fleet) -> None:
    """`nats kv get deliberations ID` shows JSON with task_id, status, phase, round and result."""
    await fleet.request(task_id="readable")
    await fleet.inbox.next(subjects.COMPLETED, task_id="readable")
    bucket = await fleet.nc.jetstream().key_value(subjects.BUCKET)
    value = json.loads((await bucket.get("readable")).value)
    assert {"task_id", "status", "phase", "round", "result"} <= value.keys()
    assert value["result"]["status"] == value["status"] == "COMPLETED"


DEEP = b'{"task_description": "x", "constraints": {"metadata": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}"
_CHAIN = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)}
DOUBLING = {"not": {"$ref": "#/$defs/a0"}, "$defs": {**_CHAIN, "a40": {"type": "integer"}}}
RANGES = ["(?if)" + "[a-\U0010ffff]" * 190 + str(n) for n in range(40)]
BAD: list[tuple[bytes, str, str]] = [
    (b"not json", "malformed", "$"),
    (b"\xff\xfe", "malformed", "$"),
    (b"", "malformed", "$"),
    (b"[]", "invalid", "$"),
    (b"{}", "invalid", "$.task_description"),
    (b'{"task_description": "  "}', "invalid", "$.task_description"),
    (b'{"task_description": "x", "num_agents": 17}', "invalid", "$.num_agents"),
    (b'{"task_description": "x", "num_agents": true}', "invalid", "$.num_agents"),
    (b'{"task_description": "x", "role": "COOK"}', "invalid", "$.role"),
    (b'{"task_description": "x", "task_id": "a.b"}', "invalid", "$.task_id"),
    (b'{"task_description": "x", "task_id": "d-1"}', "invalid", "$.task_id"),
    (b'{"task_description": "x", "options": {"sede": 1}}', "invalid", "$.options.sede"),
    (b'{"task_description": "x", "constraints": {"timeout_seconds": 0}}', "invalid", "$.constraints.timeout_seconds"),
    (json.dumps({"task_description": "x" * 100_000}).encode(), "invalid", "$.task_description"),
    (DEEP, "invalid", "$.constraints.metadata"),
    (
        json.dumps({"task_description": "x", "options": {"output_schema": DOUBLING}}).encode(),
        "invalid",
        "$.options.output_schema",
    ),
    (
        json.dumps({"task_description": "x", "options": {"output_schema": {"allOf": [{"type": 1}]}}}).encode(),
        "invalid",
        "$.options.output_schema",
    ),
    (
        json.dumps({"task_description": "x", "constraints": {"policy": {"required": ["a", "("]}}}).encode(),
        "invalid",
        "$.constraints.policy.required[1]",
    ),
]


async def test_bad_requests_are_rejected_and_kept_and_good_ones_go_on(fleet: Fleet) -> None:
    """Each bad body is rejected with code and path, and kept whole as a dead letter; good ones between complete."""
    good = []
    for index, (body, code, path) in enumerate(BAD):
        ack = json.loads((await fleet.nc.request(subjects.REQUESTED, body)).data)
        good.append(await fleet.request(task_id=f"good-{index}", rounds=0))
        rejected = await fleet.inbox.next(subjects.REJECTED, stream_sequence=ack["seq"])
        assert (rejected["code"], rejected["path"]) == (code, path)
        assert path in rejected["error"]
    for task_id in good:
        await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)
    js = fleet.nc.jetstream()
    letters = [await js.get_msg(subjects.DEAD_LETTERS, seq=number + 1) for number in range(len(BAD))]
    assert sorted(letter.data or b"" for letter in letters) == sorted(body for body, _, _ in BAD)
    assert {letter.subject for letter in letters} == {f"deadletter.{subjects.REQUESTED}"}
    assert all(letter.headers["Dead-Letter-Stream"] == subjects.DELIBERATION_REQUESTS for letter in letters)


async def test_bad_request_of_the_largest_size_harms_nobody(fleet: Fleet) -> None:
    """A body that leaves no room for a dead letter's headers is kept by reference, and the fleet goes on."""
    body = b"x" * fleet.nc.max_payload
    ack = json.loads((await fleet.nc.request(subjects.REQUESTED, body, timeout=WITHIN_S)).data)
    rejected = await fleet.inbox.next(subjects.REJECTED, stream_sequence=ack["seq"])
    assert rejected["code"] == "malformed"
    code, done = await fleet.ask(subjects.ASK, {"task_description": "still there?", "num_agents": 1})
    assert (code, done["status"]) == (None, "COMPLETED")
    js = fleet.nc.jetstream()
    letter = json.loads((await js.get_msg(subjects.DEAD_LETTERS, seq=1)).data)
    kept = await (await js.object_store(subjects.TEXTS)).get(letter["content_ref"]["name"])
    assert kept.data == body


async def test_same_request_runs_once_and_other_request_conflicts(fleet: Fleet) -> None:
    """The first answer stands; another request under its id is rejected as `conflict`."""
    await fleet.request(task_id="twice", num_agents=2, rounds=None)
    first = await fleet.inbox.next(subjects.COMPLETED, task_id="twice")
    code, again = await fleet.ask(subjects.ASK, {"task_id": "twice", "task_description": "Design it", "num_agents": 2})
    assert (code, again) == (None, first)
    code, rejected = await fleet.ask(subjects.ASK, {"task_id": "twice", "task_description": "Another"})
    assert (code, rejected["code"]) == ("409", "conflict")
    assert fleet.inbox.of("twice").count(subjects.COMPLETED) == 1
    assert fleet.inbox.of("twice").count(subjects.ACCEPTED) == 1


async def test_ask_answers_with_the_terminal_event(fleet: Fleet) -> None:
    """One request, one reply: the terminal event's body; a bad request is a service error 400 with the rejection."""
    code, body = await fleet.ask(subjects.ASK, {"task_description": "x", "num_agents": 1})
    assert (code, body["status"]) == (None, "COMPLETED")
    code, body = await fleet.ask(subjects.ASK, {"task_description": 1})
    assert (code, body["path"]) == ("400", "$.task_description")


async def test_deadline_ends_a_silent_task(silent: Fleet) -> None:
    """No answer by the deadline: TIMEOUT, every agent named, and result says so to who waits."""
    task_id = await silent.request(constraints={"timeout_seconds": 1})
    _, reply = await silent.ask(subjects.RESULT, {"task_id": task_id, "wait_seconds": 20})
    assert reply["status"] == "TIMEOUT"
    failed = await silent.inbox.next(subjects.FAILED, task_id=task_id)
    assert {call["error_type"] for call in failed["failed_agents"]} == {"DeadlineExceeded"}


async def test_deadline_with_a_proposal_completes_degraded(nats_url: str) -> None:
    """One agent answered, the others are silent: completed, degraded, with the others missing."""

    def only_the_first(call: AgentRequested) -> AgentResponse | None:
        return agents.answer(call) if call.agent_id.endswith("001") else None

    async with running(nats_url, only_the_first) as fleet:
        task_id = await fleet.request(constraints={"timeout_seconds": 1})
        done = await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)
    assert done["degraded"] is True
    assert done["missing"] == ["agent-dev-002", "agent-dev-003"]


async def test_cancel_ends_the_task_and_tells_the_workers(silent: Fleet) -> None:
    """CANCELLED with the reason, `agent.stop` on the way; a second cancel is 409, an unknown task 404."""
    stops: asyncio.Queue[Any] = asyncio.Queue()
    await silent.nc.subscribe(subjects.AGENT_STOP, cb=stops.put)
    task_id = await silent.request(task_id="stop-me")
    await silent.inbox.next(subjects.ACCEPTED, task_id=task_id)
    code, reply = await silent.ask(subjects.CANCEL, {"task_id": task_id, "reason": "x" * 1001})
    assert (code, "$.reason" in reply["error"]) == ("400", True)
    code, reply = await silent.ask(subjects.CANCEL, {"task_id": task_id, "reason": "enough"})
    assert (code, reply) == (None, {"task_id": task_id, "status": "CANCELLED"})
    cancelled = await silent.inbox.next(subjects.CANCELLED, task_id=task_id)
    assert cancelled["reason"] == "enough"
    assert json.loads((await stops.get()).data)["task_id"] == task_id
    code, reply = await silent.ask(subjects.CANCEL, {"task_id": task_id})
    assert (code, reply["status"]) == ("409", "CANCELLED")
    code, _ = await silent.ask(subjects.CANCEL, {"task_id": "nobody"})
    assert code == "404"


async def test_result_takes_a_bare_task_id(silent: Fleet) -> None:
    """A person types `nats req deliberation.result some-id`."""
    await silent.request(task_id="some-id")
    await silent.inbox.next(subjects.ACCEPTED, task_id="some-id")
    code, reply = await silent.ask(subjects.RESULT, b"some-id")
    assert (code, reply["status"]) == (None, "IN_PROGRESS")
    assert reply["progress"] == {"phase": "propose", "round": 0, "done": 0, "expected": 3}
    code, reply = await silent.ask(subjects.RESULT, b"nobody")
    assert (code, reply["status"]) == ("404", "UNKNOWN")
    for subject, body in itertools.product((subjects.RESULT, subjects.CANCEL), (b"", b'""')):
        code, reply = await silent.ask(subject, body)
        assert (code, "names no task" in reply["error"]) == ("400", True)


@some_of(3, "task_id", ["", " ", "a" * 65, "a b", "a.b", "*", ">", "é", 5, None, ["a"]])
async def test_what_is_no_id_is_refused_by_name(silent: Fleet, task_id: Any) -> None:
    """400, not the 404 of an id that nobody knows: asking again would never help."""
    for subject in (subjects.RESULT, subjects.CANCEL):
        code, reply = await silent.ask(subject, {"task_id": task_id})
        assert (code, "$.task_id" in reply["error"]) == ("400", True)
    if isinstance(task_id, str):
        follower = await Follower(silent).call({"task_id": task_id})
        assert "$.task_id" in (await follower.rest())[-1]["error"]
        assert follower.codes[-1] == "400"


async def test_service_is_discoverable(fleet: Fleet) -> None:
    """`nats micro info deliberations` lists the four endpoints."""
    info = json.loads((await fleet.nc.request("$SRV.INFO.deliberations", b"")).data)
    served = {subjects.ASK, subjects.FOLLOW, subjects.RESULT, subjects.CANCEL}
    assert {endpoint["subject"] for endpoint in info["endpoints"]} == served


async def test_nothing_is_left_behind(fleet: Fleet) -> None:
    """After the end no stream of work holds a message, and no deadline stays scheduled."""
    for index in range(5):
        await fleet.request(task_id=f"clean-{index}")
    for index in range(5):
        await fleet.inbox.next(subjects.COMPLETED, task_id=f"clean-{index}")
    js = fleet.nc.jetstream()
    for stream in (subjects.DELIBERATION_REQUESTS, subjects.AGENT_REQUESTS, subjects.DELIBERATION_CONTROL):
        await until_emptied(js, stream)


async def test_undecodable_response_becomes_a_dead_letter(silent: Fleet) -> None:
    """A poisoned response blocks nothing and is kept whole."""
    js = silent.nc.jetstream()
    await js.publish(subjects.AGENT_COMPLETED, b'{"broken', headers={CALL_TOKEN: "somebody's"})
    await until_stored(js, subjects.DEAD_LETTERS, lambda count: count > 0)
    letter = await js.get_msg(subjects.DEAD_LETTERS, seq=1)
    assert letter.data == b'{"broken'
    assert letter.subject == f"deadletter.{subjects.AGENT_COMPLETED}"


@pytest.mark.slow
async def test_a_request_that_is_slow_to_compile_holds_up_no_other(fleet: Fleet) -> None:
    """It is refused when its budget is used up; what came after it has its answer by then."""
    slow = {"policy": {"required": RANGES[:20], "forbidden": RANGES[20:]}}
    await fleet.request(task_id="slow", constraints=slow)
    await fleet.request(task_id="quick", num_agents=1)
    await fleet.inbox.next(subjects.COMPLETED, task_id="quick")
    assert fleet.inbox.of("slow") == []
    rejected = await fleet.inbox.next(subjects.REJECTED, task_id="slow")
    assert (rejected["code"], rejected["path"]) == ("invalid", "$.constraints.policy")


async def test_patterns_and_references_are_accepted(fleet: Fleet) -> None:
    """What has to be compiled elsewhere is a request like any other."""
    schema = {"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"pattern": "^a"}}}
    await fleet.request(
        task_id="ordinary", constraints={"policy": {"required": ["(?i)x"]}}, options={"output_schema": schema}
    )
    await fleet.inbox.next(subjects.COMPLETED, task_id="ordinary")


async def test_agents_of_a_role_with_several_models_draw_theirs(nats_url: str) -> None:
    """The settings reach the calls, by the dispatcher."""
    seen: list[AgentRequested] = []

    def respond(call: AgentRequested) -> AgentResponse:
        seen.append(call)
        return agents.answer(call)

    profile = structs.replace(load({}).roles["DEV"], models={"only": 1.0}, judge_model="judge")
    async with running(nats_url, respond, roles={"DEV": profile}) as fleet:
        await fleet.inbox.next(subjects.COMPLETED, task_id=await fleet.request(rounds=0, num_agents=2))
    assert {(call.phase, call.model) for call in seen} == {("propose", "only"), ("score", "judge")}
