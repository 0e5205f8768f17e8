"""What a client could tell the fleet in somebody else's name: by a consumer that delivers where the fleet listens, and
by a request whose answer goes there. Against a whole fleet, each process as its own user of the shipped permissions."""

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
from nats.aio.client import Client

from fleet import subjects
from fleet.jetstream import origin
from fleet.jetstream.origin import WORKER_INBOX, may_be_answered
from fleet.logger import Seldom
from fleet.tenants.names import subject_of
from tests.support.fleets.control_plane import Fleet
from tests.support.fleets.whole_fleet import whole
from tests.support.nats.permitted import Users, permitted, settle
from tests.support.variants import some_of
from tests.support.waiting import WITHIN_S, until, until_consumer
from tests.support.workers.fake_control_plane import SLOW

TEXTS, ANSWERS = f"OBJ_{subjects.TEXTS}", subjects.AGENT_RESPONSES
FORGED = {
    "status": "completed", "task_id": "victim", "agent_id": "agent-dev-001", "role": "DEV", "phase": "propose",
    "round": 0, "attempt": 1, "model": "forged", "num_agents": 2, "duration_ms": 1,
    "timestamp": "2026-01-01T00:00:00.000Z", "usage": {"prompt_tokens": 1, "completion_tokens": 1, "cached_tokens": 0},
    "proposal": {"content": "FORGED", "author_id": "agent-dev-001", "author_role": "DEV", "model": "forged",
                 "temperature": 0.5, "tokens": 1, "revisions": 0},
}  # fmt: skip


@dataclass
class Scene:
    """A task of one tenant, `victim`, whose calls run for as long as the test; another tenant, and what is logged."""

    fleet: Fleet
    users: Users
    logged: list[Any]

    @property
    def client(self) -> Client:
        nc: Client = self.fleet.nc
        return nc

    def events(self, name: str) -> list[Any]:
        return [entry for entry in self.logged if entry["event"] == name]

    async def taken_away(self, target: str) -> None:
        """Waits until the consumer that delivers there is. It may have delivered before, or nothing at all."""
        await until(lambda: any(entry["delivered_to"] == target for entry in self.events("consumer.removed")))

    async def state(self) -> dict[str, Any]:
        async with self.users.connected("operator") as (nc, _):
            entry = await (await nc.jetstream().key_value(subjects.BUCKET)).get("victim")
            return dict(json.loads(entry.value or b""))

    async def unharmed(self) -> None:
        """The task goes on with nothing said for its agents, and still hears what is said rightly."""
        state = await self.state()
        assert (state["status"], set(state["calls"].values())) == ("IN_PROGRESS", {"open"})
        assert not self.events("agent.stopped")
        said = [
            s
            for s, headers, body in self.fleet.inbox.events
            if body.get("task_id") == "victim" and is_event(s, headers)
        ]
        assert said == [subjects.ACCEPTED]
        assert (await self.fleet.ask(subjects.CANCEL, {"task_id": "victim"}))[1]["status"] == "CANCELLED"
        await until(lambda: bool(self.events("agent.stopped")))


@pytest.fixture
async def scene(tmp_path: Path, nats_binary: None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    for told in ("_foreign", "_not_answered"):
        monkeypatch.setattr(origin, told, Seldom())  # a test before may have been told of the same
    async with permitted(tmp_path / "nats") as users:
        with structlog.testing.capture_logs() as logged:
            names = {"worker_url": users.url("worker"), "client_url": users.url("client")}
            async with whole(users.url("control"), SLOW, **names) as fleet:  # type: ignore[arg-type]
                await fleet.request(task_id="victim", num_agents=2)
                await fleet.inbox.next(subjects.ACCEPTED, task_id="victim")
                found = Scene(fleet, users, logged)
                async with users.connected("operator") as (nc, _):
                    both = (subjects.AGENT_REQUESTS, subjects.WORKERS)
                    await until_consumer(nc.jetstream(), *both, lambda info: info.num_ack_pending == 2)
                yield found


def is_event(subject: str, headers: dict[str, str]) -> bool:
    """As far as any listener can tell. (What the attacker asked for is rejected.)"""
    return subject in (subjects.ACCEPTED, *subjects.TERMINAL) and "Nats-Stream" not in headers


async def consumer(nc: Client, stream: str, **config: Any) -> dict[str, Any]:
    """Asks for one, and returns what the server says."""
    body = json.dumps({"stream_name": stream, "config": {"ack_policy": "none", **config}}).encode()
    return dict(json.loads((await nc.request(f"$JS.API.CONSUMER.CREATE.{stream}", body, timeout=WITHIN_S)).data))


async def stored_chunk(scene: Scene, text: bytes) -> str:
    """The subject of a chunk that holds nothing but `text` (and blanks), as a client gets it there."""
    size = scene.client.max_payload - 2000
    asking = text.ljust(512 * 1024) + b" " * (size - 512 * 1024)
    await scene.client.publish(subjects.ASK, asking, reply="_INBOX.nobody")
    found: list[str] = []

    async def look() -> bool:
        question = json.dumps({"last_by_subj": f"$O.{subjects.TEXTS}.M.>"}).encode()
        reply = await scene.client.request(f"$JS.API.STREAM.MSG.GET.{TEXTS}", question, timeout=WITHIN_S)
        meta = json.loads(reply.data).get("message")
        if meta:
            found.append(f"$O.{subjects.TEXTS}.C.{json.loads(base64.b64decode(meta['data']))['nuid']}")
        return bool(meta)

    await until(look)
    return found[0]


WAYS = {
    "a consumer": (f"$JS.API.CONSUMER.CREATE.{TEXTS}", {"stream_name": TEXTS}),
    "a consumer with a name": (f"$JS.API.CONSUMER.CREATE.{TEXTS}.mine", {"stream_name": TEXTS}),
    "a durable": (f"$JS.API.CONSUMER.DURABLE.CREATE.{TEXTS}.mine", {"stream_name": TEXTS}),
    "a look": (f"$JS.API.DIRECT.GET.{TEXTS}", {"seq": 1}),
    "a look by subject": (f"$JS.API.DIRECT.GET.{TEXTS}.$O.{subjects.TEXTS}.C.x", {}),
}


META = f"$O.{subjects.TEXTS}.M.>"
CHUNKS = f"$O.{subjects.TEXTS}.C.>"


@some_of(
    1, "filters", [{}, {"filter_subject": CHUNKS}, {"filter_subjects": [META, CHUNKS]}, {"filter_subjects": [CHUNKS]}]
)
async def test_a_list_of_texts_is_no_way_to_their_chunks(scene: Scene, filters: dict[str, Any]) -> None:
    """A consumer whose subject says that it takes names only takes nothing else."""
    subject = f"$JS.API.CONSUMER.CREATE.{TEXTS}.mine.{META}"
    config = {"name": "mine", "ack_policy": "none", "deliver_subject": "_INBOX.x", **filters}
    body = json.dumps({"stream_name": TEXTS, "config": config}).encode()
    reply = json.loads((await scene.client.request(subject, body, timeout=WITHIN_S)).data)
    assert "error" in reply
    del config["deliver_subject"]
    reply = json.loads((await scene.client.request(subject, body, timeout=WITHIN_S)).data)
    assert "error" in reply


@some_of(2, "name", ["client", "worker"])
@some_of(3, "way", WAYS)
async def test_texts_are_delivered_nowhere(scene: Scene, name: str, way: str) -> None:
    """Their chunks hold what a client or a model wrote: only answers that wrap them are to be had."""
    subject, body = WAYS[way]
    async with scene.users.connected(name) as (nc, refused):
        await nc.publish(subject, json.dumps(body).encode(), reply="_INBOX.x")
        await settle(nc)
        assert len(refused) == 1


async def test_a_chunk_of_a_request_is_no_answer_of_an_agent(scene: Scene) -> None:
    """Also where NATS lets somebody have it delivered to the collector."""
    chunk = await stored_chunk(scene, json.dumps(FORGED).encode())
    async with scene.users.connected("operator") as (nc, _):
        to = {"deliver_subject": subjects.DELIVER_RESPONSES, "deliver_group": subjects.COLLECTOR}
        assert "error" not in await consumer(nc, TEXTS, filter_subject=chunk, **to)
        await scene.taken_away(subjects.DELIVER_RESPONSES)
        await nc.publish(f"$JS.API.DIRECT.GET.{TEXTS}.{chunk}", b"", reply=subjects.DELIVER_RESPONSES)
        await until(lambda: any("came_from" not in entry for entry in scene.events("message.foreign")))
    await scene.unharmed()


LISTENING = {
    "the collector": (subjects.DELIVER_RESPONSES, subjects.COLLECTOR),
    "the controller": (subjects.DELIVER_CONTROL, subjects.CONTROLLER),
    "the dispatcher": (subjects.DELIVER_REQUESTS, subjects.DISPATCHER),
    "the workers": (subjects.AGENT_STOP, None),
    "who waits for an end": (subjects.CANCELLED, None),
    "who waits for a rejection": (subjects.REJECTED, None),
    "dead letters": (subjects.exhausted(subjects.AGENT_REQUESTS, subjects.WORKERS), subjects.DEAD_LETTER_GROUP),
}


@some_of(2, "stream", [subjects.STATES, subjects.DELIBERATIONS])
@some_of(4, "where", LISTENING)
async def test_a_consumer_of_a_client_tells_the_fleet_nothing(scene: Scene, where: str, stream: str) -> None:
    """It may have copies of a stream delivered to any subject: the state of a task has `task_id`, as a stop has."""
    subject, group = LISTENING[where]
    more = {"deliver_group": group} if group else {}
    refused = "error" in await consumer(scene.client, stream, deliver_subject=subject, **more)
    if refused:  # it would feed its own stream
        assert (stream, subject.split(".")[0]) == (subjects.DELIBERATIONS, "deliberation")
    else:
        await scene.taken_away(subject)
    await scene.unharmed()


@pytest.mark.parametrize("verb", [subjects.REQUESTED, subjects.ASK, subjects.COMPLETED])
async def test_a_consumer_tells_nothing_to_or_for_a_tenant(scene: Scene, verb: str) -> None:
    """Also while the fleet has no tenants: their subjects are not for callers."""
    subject = subject_of("team-a", verb)
    assert "error" not in await consumer(scene.client, subjects.STATES, deliver_subject=subject)
    await scene.taken_away(subject)
    await scene.unharmed()


@some_of(
    2,
    "reply",
    [*(subject for where, (subject, _) in LISTENING.items() if where != "dead letters"), subjects.AGENT_COMPLETED],
)
async def test_a_stored_message_that_is_sent_there_tells_nothing(scene: Scene, reply: str) -> None:
    """A direct look at the state, whose answer goes to where the fleet listens, under that very subject."""
    look = f"$JS.API.DIRECT.GET.{subjects.STATES}.$KV.{subjects.BUCKET}.victim"
    for _ in range(2):
        await scene.client.publish(look, b"", reply=reply)
    if reply == subjects.AGENT_COMPLETED:  # it is even stored
        await until(lambda: bool(scene.events("message.dead_lettered")))
    else:
        await until(lambda: bool(scene.events("message.foreign")))
    await scene.unharmed()


@some_of(2, "asked", [subjects.RESULT, subjects.CANCEL, subjects.ASK, f"$SRV.PING.{subjects.SERVICE}"])
@some_of(
    4,
    "reply",
    [
        *(subjects.AGENT_STOP, subjects.CANCELLED, f"$KV.{subjects.BUCKET}.victim", subjects.AGENT_FAILED),
        subject_of("team-a", subjects.COMPLETED),
    ],
)
async def test_service_says_nothing_for_a_client(scene: Scene, asked: str, reply: str) -> None:
    """Its answers are published by the control plane, which may publish nearly everything."""
    before = await scene.state()
    await scene.client.publish(asked, b'{"task_id": "victim-of-nobody"}', reply=reply)
    await until(lambda: bool(scene.events("request.not_answered")))
    assert await scene.state() == before
    await scene.unharmed()


async def test_fence_answers_nobody_by_a_copy(scene: Scene) -> None:
    """Nothing stored makes it say anything, whether a consumer delivers it to the name of an instance or a look."""
    async with scene.users.connected("sys") as (nc, _):
        found = json.loads(
            (await nc.request("$SYS.REQ.SERVER.PING.SUBSZ", b'{"subscriptions":true}', timeout=WITHIN_S)).data
        )
        instances = [s["subject"] for s in found["data"]["subscriptions_list"] if s["subject"].startswith("fleet.inst")]
    assert instances
    for instance in instances:
        assert "error" not in await consumer(scene.client, subjects.STATES, deliver_subject=instance)
        await scene.taken_away(instance)
        look = f"$JS.API.DIRECT.GET.{subjects.STATES}.$KV.{subjects.BUCKET}.victim"
        await scene.client.publish(look, b"", reply=instance)
    await until(lambda: {entry["subject"] for entry in scene.events("message.foreign")} >= set(instances))
    await scene.unharmed()


@pytest.mark.parametrize("name", ["client", "worker"])
async def test_nobody_listens_to_the_replies_of_the_control_plane(scene: Scene, name: str) -> None:
    """Who hears one learns how the next is called, and could have an answer delivered there."""
    async with scene.users.connected(name) as (nc, _), scene.users.connected("control") as (control, _):
        heard = await nc.subscribe("_INBOX.>")
        await settle(nc)
        state = await scene.fleet.ask(
            subjects.RESULT, {"task_id": "victim"}
        )  # the control plane reads the state for it
        assert state[1]["status"] == "IN_PROGRESS"
        await control.publish("_INBOX.last", b"the last one")
        fine = scene.fleet.nc._replies_begin
        assert fine is not None
        own = [fine, WORKER_INBOX] if name == "worker" else [fine]
        while (msg := await heard.next_msg(timeout=WITHIN_S)).data != b"the last one":
            assert msg.subject.startswith(tuple(own))


async def test_a_pull_takes_calls_from_the_workers_stream_only(scene: Scene) -> None:
    """Also where somebody knows the inbox of a worker."""
    async with scene.users.connected("sys") as (nc, _):
        found = json.loads(
            (await nc.request("$SYS.REQ.SERVER.PING.SUBSZ", b'{"subscriptions":true}', timeout=WITHIN_S)).data
        )
        inboxes = [s["subject"] for s in found["data"]["subscriptions_list"] if s["subject"].startswith(WORKER_INBOX)]
    assert inboxes
    for inbox in inboxes:
        if not inbox.endswith("*"):
            assert "error" not in await consumer(scene.client, subjects.STATES, deliver_subject=inbox)
    await until(lambda: bool(scene.events("message.foreign")))
    await scene.unharmed()


@pytest.mark.parametrize(
    "reply", ["_INBOX.abc.1", "_INBOX_team.abc", "_R_.abc.def", "replies.of.mine", "_INBOX.control.a.b"]
)
def test_callers_are_answered_wherever_they_listen(reply: str) -> None:
    """An inbox prefix of one's own, what NATS makes of a reply that crosses accounts, another instance of the fleet."""
    assert may_be_answered(reply)


def test_a_flood_of_what_is_not_answered_is_told_of_seldom() -> None:
    """Else any client could fill the disk with what the fleet logs."""
    with structlog.testing.capture_logs() as logged:
        assert not any(may_be_answered(f"deliberation.{number}") for number in range(1000))
    assert len(logged) <= 2
