"""The council as an agent of Synadia's protocol: its SDK finds it, prompts it, gets the winner's text or an error."""

import asyncio
import json
from typing import Any

import pytest
from msgspec import structs
from nats.aio.client import Client
from synadia_ai.agents import Envelope

from fleet import subjects
from fleet.control import collector, dispatcher
from fleet.control.service import agent as served
from fleet.control.service import following
from fleet.local.testbed import NoWorkers
from fleet.messages import AgentRequested, AgentResponse
from tests.support import agents
from tests.support.client.following import Follower
from tests.support.client.prompting import Prompted, councils, note, prompt, sdk
from tests.support.fleets.control_plane import running
from tests.support.fleets.instances import held
from tests.support.fleets.whole_fleet import whole
from tests.support.repository.asyncapi import matching, messages_of, problems
from tests.support.variants import some_of
from tests.support.waiting import WITHIN_S, until
from workers.simulator.server import SimulatorConfig

ON = {"agent_protocol": True}
PROMPT = "agents.prompt.council.fleet.default"


async def raw(nc: Client, body: bytes, headers: dict[str, str] | None = None) -> list[Any]:
    """Every message of one prompt, its empty one too; each of the others is one of the AsyncAPI document."""
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox)
    await nc.publish(PROMPT, body, reply=inbox, headers=headers)
    messages = []
    while not messages or messages[-1].data or messages[-1].headers:
        messages.append(await subscription.next_msg(timeout=WITHIN_S))
    for message in messages[:-1]:
        assert len(matching(messages_of("agents.prompt.council.reply"), json.loads(message.data))) == 1
    return messages


# --- found ------------------------------------------------------------------------------------------------------------


async def test_a_client_finds_it_and_sees_that_it_lives(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dispatcher and collector are two instances of one agent, under one prompt subject."""
    monkeypatch.setattr(served, "BEAT_EVERY_S", 1)
    async with running(nats_url, agents.answer, **ON) as fleet, sdk(fleet.nc) as client:
        found = await councils(client)
        assert len({each.instance_id for each in found}) == len(found) == 2
        for each in found:
            assert (each.owner, each.session_name, each.protocol_version) == ("fleet", "default", "0.3")
            assert each.prompt_subject == PROMPT
            assert each.prompt_endpoint.queue_group == "agents"
            assert each.prompt_endpoint.max_payload_bytes == 512 * 1024
            assert each.prompt_endpoint.attachments_ok is False
            status = await each.status()
            assert (status.agent, status.owner, status.session, status.interval_s) == ("council", "fleet", "default", 1)
            assert status.instance_id in {other.instance_id for other in found}
            await until(lambda each=each: client.liveness(each.instance_id) is not None)
            assert await client.ping(each.instance_id)
        beat = await fleet.nc.request("agents.status.council.fleet.default", timeout=WITHIN_S)
        assert not problems("Heartbeat", json.loads(beat.data))


async def test_it_names_itself_before_its_first_heartbeat(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as anybody can ask how it is."""
    monkeypatch.setattr(served.Agent, "begin", lambda agent: None)
    async with running(nats_url, agents.answer, **ON) as fleet, sdk(fleet.nc) as client:
        found = await councils(client)
        assert (await found[0].status()).instance_id in {each.instance_id for each in found}


async def test_without_the_setting_nothing_is_there(nats_url: str) -> None:
    """Neither found nor prompted, and no heartbeat."""
    async with running(nats_url, agents.answer) as fleet:
        reply = await fleet.nc.request("$SRV.PING.deliberations", timeout=WITHIN_S)
        assert json.loads(reply.data)["name"] == "deliberations"
        async with sdk(fleet.nc) as client:
            assert await client.discover(timeout=1) == []


async def test_it_is_named_after_the_fleet(nats_url: str) -> None:
    async with running(nats_url, agents.answer, **ON, fleet_name="east") as fleet, sdk(fleet.nc) as client:
        (first, _) = await councils(client)
        assert (first.owner, first.prompt_subject) == ("east", "agents.prompt.council.east.default")
        assert (await prompt(first, "Design it", num_agents=1)).text == "propose 0 by agent-dev-001"


# --- prompted ---------------------------------------------------------------------------------------------------------


async def test_a_prompt_is_answered_with_the_winners_text(nats_url: str) -> None:
    """First `ack`, then the task's id, then the course, then the winner's text with the facts of the event."""
    async with running(nats_url, agents.answer, **ON) as fleet, sdk(fleet.nc) as client:
        seen = await prompt((await councils(client))[0], "Design it")
        done = await fleet.inbox.next(subjects.COMPLETED)
        assert seen.error is None
        assert seen.statuses[0] == "ack"
        assert seen.statuses.count("ack") == 1
        assert seen.task_id == done["task_id"]
        assert list(dict.fromkeys(step["phase"] for step in seen.steps)) == ["propose", "critique", "revise", "score"]
        ended = [step for step in seen.steps if "agent_id" in step]
        assert len(ended) == 12
        assert {step["outcome"] for step in ended} == {"completed"}
        first = done["results"][0]
        assert (seen.text, seen.pieces) == (first["proposal"]["content"], 1)
        assert seen.facts is not None
        assert not problems("PromptFacts", seen.facts)
        for name in ("task_id", "winner_id", "degraded", "missing", "rounds_run", "usage", "cost", "duration_ms"):
            assert seen.facts[name] == done[name]
        assert (seen.facts["score"], seen.facts["p_best"]) == (first["score"], first["p_best"])
        assert (seen.facts["proposals"], seen.facts["failed_calls"], seen.facts["truncated"]) == (3, {}, False)


async def test_the_prompt_carries_fields_of_a_request(nats_url: str) -> None:
    """Under its own name, so that fields of other extensions are left alone; the text is the prompt's."""
    async with running(nats_url, agents.answer, **ON) as fleet:
        fields = {
            "task_id": "mine",
            "num_agents": 1,
            "correlation": {"story": "S-17"},
            "constraints": {"timeout_seconds": 60},
        }
        body = {"prompt": "Design it", "deliberation": fields, "role": 7, "options": "of another extension"}
        *chunks, last = await raw(fleet.nc, json.dumps(body).encode())
        done = await fleet.inbox.next(subjects.COMPLETED, task_id="mine")
        assert (done["task"]["task_description"], done["total_agents"]) == ("Design it", 1)
        assert done["correlation"] == {"story": "S-17"}
        answer = json.loads(chunks[-1].data)
        assert (answer["type"], answer["data"]["text"]) == ("response", "propose 0 by agent-dev-001")
        assert (last.data, last.headers) == (b"", None)


async def test_plain_text_is_a_prompt(nats_url: str) -> None:
    """As it stands, blanks and all: what `nats req` sends."""
    async with running(nats_url, agents.answer, **ON) as fleet:
        await raw(fleet.nc, b" Design it\n")
        done = await fleet.inbox.next(subjects.COMPLETED)
        assert done["task"]["task_description"] == " Design it\n"


async def test_an_answer_that_nobody_scored_says_so(nats_url: str) -> None:
    """And that the council was not what was asked for: degraded, the calls that failed by type, who is missing."""

    def respond(call: AgentRequested) -> AgentResponse:
        fails = call.phase == "score" or call.agent_id == "agent-dev-003"
        return agents.failure(call) if fails else agents.answer(call)

    async with running(nats_url, respond, **ON) as fleet, sdk(fleet.nc) as client:
        seen = await prompt((await councils(client))[0], "Design it")
        assert seen.error is None
        assert seen.facts is not None
        assert (seen.facts["score"], seen.facts["p_best"], seen.facts["degraded"]) == (None, None, True)
        assert (seen.facts["missing"], seen.facts["proposals"]) == (["agent-dev-003"], 2)
        assert seen.facts["failed_calls"] == {"ServerError": 3}


async def test_a_long_answer_arrives_whole(nats_url: str) -> None:
    """In pieces that a message holds, where the event itself refers to its texts."""
    long = 'Ünïcödé and "quotes"\n' * 60_000
    async with running(nats_url, lambda call: agents.answer(call, text=long), **ON) as fleet, sdk(fleet.nc) as client:
        seen = await prompt((await councils(client))[0], "Design it", num_agents=1)
        assert seen.text == long
        assert seen.pieces > 1
        assert seen.facts is not None


# --- refused ----------------------------------------------------------------------------------------------------------


@some_of(
    3,
    ("body", "code", "name", "said"),
    [
        (b"", "400", "bad_request", "empty"),
        (b" \n", "400", "bad_request", "empty"),
        (b"\xff", "400", "bad_request", "not UTF-8: byte 0xff in line 1, column 1"),
        (b"{", "400", "bad_request", "it ends too early"),
        (b"{}", "400", "bad_request", "$.prompt: must be given"),
        ({"prompt": " "}, "400", "bad_request", "empty"),
        ({"prompt": "x", "deliberation": 7}, "400", "bad_request", "$.deliberation"),
        ({"prompt": "x", "deliberation": {"content_ref": {"name": "requests/x"}}}, "400", "bad_request", "content_ref"),
        ({"prompt": "x", "deliberation": {"task_description": "y"}}, "400", "bad_request", "task_description"),
        ({"prompt": "x", "attachments": [{"filename": "a", "content": "YQ=="}]}, "400", "bad_request", "attachments"),
        (
            {"prompt": "x", "deliberation": {"constraints": {"metadata": {"m": "x" * 524_288}}}},
            "400",
            "bad_request",
            "524,",
        ),
        ({"prompt": "x", "deliberation": {"num_agents": 100}}, "400", "invalid", "$.num_agents"),
        ({"prompt": "Another", "deliberation": {"task_id": "used"}}, "409", "conflict", "used before"),
    ],
)
async def test_a_bad_prompt_is_refused_in_the_protocols_form(
    nats_url: str, body: Any, code: str, name: str, said: str
) -> None:
    """An error that names its kind, then the empty message without headers; no answer."""
    async with running(nats_url, agents.answer, **ON) as fleet:
        await fleet.ask(subjects.ASK, {"task_id": "used", "task_description": "Design it", "num_agents": 1})
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        *_, refused, last = messages = await raw(fleet.nc, data)
        assert refused.headers["Nats-Service-Error-Code"] == code
        told = json.loads(refused.data)
        assert (told["error"], told["message"]) == (name, refused.headers["Nats-Service-Error"])
        assert said in told["message"]
        assert (last.data, last.headers) == (b"", None)
        assert not any(b'"response"' in message.data for message in messages)


async def test_attachments_of_no_number_are_no_matter(nats_url: str) -> None:
    async with running(nats_url, agents.answer, **ON) as fleet:
        *_, answer, _ = await raw(fleet.nc, b'{"prompt": "Design it", "attachments": []}')
        assert json.loads(answer.data)["type"] == "response"


async def test_a_council_that_fails_gives_no_answer(nats_url: str) -> None:
    """Its error, after the task's id, and no text that could be taken for one."""
    async with running(nats_url, agents.failure, **ON) as fleet, sdk(fleet.nc) as client:
        seen = await prompt((await councils(client))[0], "Design it", num_agents=2)
        done = await fleet.inbox.next(subjects.FAILED)
        assert seen.error == f"service error 500: {done['error']}"
        assert (seen.text, seen.facts, seen.task_id) == ("", None, done["task_id"])
        *_, refused, _ = await raw(fleet.nc, b"Design it")
        assert json.loads(refused.data)["error"] == "deliberation_failed"


async def test_one_that_is_cancelled_or_too_late_says_which(nats_url: str) -> None:
    async with running(nats_url, lambda _: None, **ON) as fleet:
        body = {"prompt": "Design it", "deliberation": {"task_id": "t"}}
        waiting = asyncio.create_task(raw(fleet.nc, json.dumps(body).encode()))
        await fleet.inbox.next(subjects.ACCEPTED, task_id="t")
        await fleet.ask(subjects.CANCEL, {"task_id": "t", "reason": "superseded"})
        *_, refused, _ = await waiting
        assert json.loads(refused.data) == {"error": "deliberation_cancelled", "message": "superseded", "task_id": "t"}
        late = {"prompt": "Design it", "deliberation": {"constraints": {"timeout_seconds": 1}}}
        *_, refused, _ = await raw(fleet.nc, json.dumps(late).encode())
        assert json.loads(refused.data)["error"] == "deliberation_timeout"


async def test_the_agent_is_not_made_to_prompt_itself(nats_url: str) -> None:
    """Nobody has its answers sent to a subject of agents, its own or another one's."""
    async with running(nats_url, agents.answer, **ON) as fleet:
        heard = await fleet.nc.subscribe("agents.>")
        await fleet.nc.publish(PROMPT, b"Design it", reply="agents.prompt.other.x.y")
        await raw(fleet.nc, b'{"prompt": "Design it", "deliberation": {"task_id": "t", "num_agents": 1}}')
        await fleet.inbox.next(subjects.COMPLETED, task_id="t")
        assert fleet.inbox.of("t")[-1] == subjects.COMPLETED
        told = {heard._pending_queue.get_nowait().subject for _ in range(heard._pending_queue.qsize())}
        assert "agents.prompt.other.x.y" not in told
        assert PROMPT in told


# --- instances and callers that go ------------------------------------------------------------------------------------


async def test_a_prompt_is_handed_over_from_instance_to_instance(nats_url: str) -> None:
    """Each is ended in turn: the caller sees one `ack`, every call once, and the answer."""
    async with held(nats_url, FLEET_AGENT_PROTOCOL="true") as instances, sdk(instances.fleet.nc) as client:
        fleet = instances.fleet
        (council, _) = await councils(client)
        asking = [asyncio.create_task(prompt(council, "Take your time", num_agents=2)) for _ in range(4)]
        for _ in asking:
            await fleet.inbox.next(subjects.ACCEPTED)
        await until(lambda: len(fleet.inbox.events) == len(asking))
        await instances.end(0)
        await instances.begin(dispatcher.run, NoWorkers())
        await instances.end(1)
        async with agents.answering(fleet.nc):
            await instances.begin(collector.run)
            for seen in await asyncio.gather(*asking):
                assert (seen.error, seen.statuses.count("ack")) == (None, 1)
                assert seen.facts is not None
                assert seen.facts["task_id"] == seen.task_id
                told = sorted((step["phase"], step["agent_id"]) for step in seen.steps if "agent_id" in step)
                assert told == sorted(
                    (phase, f"agent-dev-00{number}")
                    for phase in ("propose", "critique", "revise", "score")
                    for number in (1, 2)
                )


async def test_the_last_instance_tells_its_callers(nats_url: str) -> None:
    """500 `unavailable` is what the protocol has for it: the deliberation goes on, under the id that was told."""
    async with held(nats_url, FLEET_AGENT_PROTOCOL="true") as instances:
        fleet = instances.fleet
        asking = asyncio.create_task(raw(fleet.nc, b'{"prompt": "Wait", "deliberation": {"task_id": "alone"}}'))
        await fleet.inbox.next(subjects.ACCEPTED, task_id="alone")
        await instances.end(0)
        await instances.end(1)
        *_, refused, _ = await asking
        assert refused.headers["Nats-Service-Error-Code"] == "500"
        told = json.loads(refused.data)
        assert told["error"] == "unavailable"
        assert "deliberation.result" in told["message"]


async def test_an_instance_hands_over_to_none_that_lacks_the_setting(nats_url: str) -> None:
    """Others are there, and would never answer: the caller is told."""
    async with held(nats_url) as instances:
        fleet = instances.fleet
        instances.settings = structs.replace(instances.settings, agent_protocol=True)
        await instances.begin(collector.run)
        asking = asyncio.create_task(raw(fleet.nc, b'{"prompt": "Wait", "deliberation": {"task_id": "alone"}}'))
        await fleet.inbox.next(subjects.ACCEPTED, task_id="alone")
        await instances.end(2)
        *_, refused, _ = await asking
        assert json.loads(refused.data)["error"] == "unavailable"


async def test_a_caller_that_dies_finds_its_answer_again(nats_url: str) -> None:
    """By the id that it was told at once, or by the same prompt under the id that it chose; nothing runs twice."""
    async with held(nats_url, FLEET_AGENT_PROTOCOL="true") as instances, sdk(instances.fleet.nc) as client:
        fleet = instances.fleet
        (council, _) = await councils(client)
        told = []
        for fields in ({"num_agents": 1}, {"num_agents": 1, "task_id": "mine"}):
            seen = await first_words(council, fields)
            told.append(seen.task_id)
        async with agents.answering(fleet.nc):
            unnamed, mine = told
            assert mine == "mine"
            _, reply = await fleet.ask(subjects.RESULT, {"task_id": unnamed, "wait_seconds": 20})
            assert reply["status"] == "COMPLETED"
            assert (await (await Follower(fleet).call({"task_id": unnamed})).rest())[-1]["status"] == "COMPLETED"
            again = await prompt(council, "Design it", num_agents=1, task_id="mine")
            assert (again.error, again.text) == (None, "propose 0 by agent-dev-001")
            for task_id in told:
                await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)
                assert fleet.inbox.of(task_id) == [subjects.ACCEPTED, subjects.COMPLETED]


async def first_words(council: Any, fields: dict[str, Any]) -> Prompted:
    """A caller that goes away as soon as it knows the task's id."""
    seen = Prompted()
    stream = council.prompt(Envelope(prompt="Design it", deliberation=fields))
    async for message in stream:
        note(seen, message)
        if any(status.startswith("task_id=") for status in seen.statuses):
            break
    await stream.aclose()
    return seen


async def test_signs_of_life_come_as_statuses(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller whose patience is shorter than the model's time does not give up."""
    monkeypatch.setattr(following, "REPLY_EVERY_S", 0.1)
    async with whole(nats_url, SimulatorConfig(latency_ms=3_000), **ON) as fleet, sdk(fleet.nc) as client:
        seen = await prompt((await councils(client))[0], "Design it", timeout_s=2.5, num_agents=1)
        assert (seen.error, bool(seen.text)) == (None, True)
        assert len(seen.steps) > 3
