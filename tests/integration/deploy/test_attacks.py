"""Attacks on a whole fleet by users of the shipped permissions. Each is refused or bounded, and others are served."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from fleet import subjects
from fleet.jetstream.payloads import Texts
from fleet.jetstream.quirks import entries
from fleet.messages import AgentRequested, decode, encode
from fleet.messages.headers import CALL_TOKEN
from tests.support import agents
from tests.support.fleets.control_plane import Fleet
from tests.support.fleets.whole_fleet import whole
from tests.support.nats.permitted import Users, permitted, settle
from tests.support.variants import some_of
from tests.support.waiting import WITHIN_S, until
from tests.support.workers.fake_control_plane import SLOW
from workers.simulator.server import SimulatorConfig

pytestmark = pytest.mark.usefixtures("nats_binary")


@asynccontextmanager
async def attacked(folder: Path, simulated: SimulatorConfig | None = None) -> AsyncIterator[tuple[Fleet, Users]]:
    """A fleet, and what its client sees. Afterwards it serves."""
    async with permitted(folder / "server") as users:
        names = {"worker_url": users.url("worker"), "client_url": users.url("client")}
        async with whole(users.url("control"), simulated, **names) as fleet:  # type: ignore[arg-type]
            yield fleet, users


async def serves(fleet: Fleet) -> None:
    """Somebody else's request is answered."""
    async with asyncio.timeout(WITHIN_S):
        code, done = await fleet.ask(subjects.ASK, {"task_description": "Design it", "num_agents": 2, "rounds": 0})
    assert (code, done["status"]) == (None, "COMPLETED")


def doubling(links: int, keyword: str) -> dict[str, Any]:
    """Each link refers twice to the next one."""
    definitions: dict[str, Any] = {f"a{links}": {"type": "string"}}
    for number in range(links):
        next_ = {"$ref": f"#/$defs/a{number + 1}"}
        both: Any = {"if": next_, "then": next_} if keyword == "if" else {keyword: [next_, next_]}
        if keyword == "properties":
            both = {"properties": {"x": next_, "y": next_}, "dependentSchemas": {"x": next_}}
        definitions[f"a{number}"] = both
    return {"$ref": "#/$defs/a0", "$defs": definitions}


def asked(**more: Any) -> bytes:
    return json.dumps({"task_description": "Design it", "num_agents": 1, "rounds": 0, **more}).encode()


def schema(value: dict[str, Any]) -> bytes:
    return asked(options={"output_schema": value}, constraints={"timeout_seconds": 5})


def policy(*patterns: str) -> bytes:
    return asked(constraints={"policy": {"forbidden": patterns}, "timeout_seconds": 5})


BODIES = {
    "conditions that double": schema(doubling(40, "if")),
    "lists that double": schema(doubling(40, "allOf")),
    "dependent schemas that double": schema(doubling(30, "properties")),
    "a pattern that backtracks": schema({"type": "string", "pattern": "^(?:(?:[a-z]|[a-y])+)+[0-9]$"}),
    "a format of its own": schema({"type": "string", "format": "regex", "pattern": "(" * 2_000 + ")" * 2_000}),
    "repetitions of repetitions": policy("(?:(?:(?:a{1,1000}){1,1000}){1,1000}){1,1000}"),
    "fifty slow patterns": policy(*(f"(?:(?:x{{1,200}}y?){{1,200}}){number}" for number in range(50))),
    "looking around": policy(r"(?=(?=(?=(a*)*b)*c)*d)" * 20),
    "a lone surrogate": b'{"task_description": "\\ud800 x", "correlation": {"\\udfff": "\\ud800"}}',
    "not UTF-8": b'{"task_description": "\xff\xfe"}',
    "a mark of order": b"\xef\xbb\xbf" + asked(),
    "numbers without end": b'{"task_description": "x", "constraints": {"metadata": {"n": ' + b"9" * 100_000 + b"}}}",
    "infinite numbers": b'{"task_description": "x", "constraints": {"timeout_seconds": 1e999, "metadata": {"n": 1e9}}}',
    "not a number": b'{"task_description": "x", "options": {"seed": NaN}}',
    "a field twice": b'{"task_id": "one", "task_description": "x", "task_id": "two", "num_agents": 1, "rounds": 0}',
    "many unknown fields": asked(**{f"x{number}": 1 for number in range(20_000)}),
    "many requirements": asked(constraints={"requirements": ["a"] * 20_000}),
    "a sea of objects": b'{"task_description": "x", "constraints": {"metadata": {"a": [' + b"{}," * 300_000 + b"{}]}}}",
}


@some_of(4, "name", BODIES)
async def test_a_hostile_request_is_answered_and_stops_nobody(tmp_path: Path, name: str) -> None:
    """By an end of its own, or a rejection; others are served meanwhile."""
    async with attacked(tmp_path) as (fleet, _):
        attack = asyncio.create_task(fleet.nc.request(subjects.ASK, BODIES[name], timeout=WITHIN_S))
        await serves(fleet)
        reply = await attack
        assert (reply.headers or {}).get("Nats-Service-Error-Code") in (None, "400", "409")
        json.loads(reply.data)


@some_of(
    2,
    "headers",
    [
        {"Nats-Rollup": "all"},
        {"Nats-Rollup": "sub"},
        {"Nats-TTL": "1s"},
        {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": subjects.REQUESTED},
        {"Nats-Expected-Last-Sequence": "0"},
        {"traceparent": "00-" + "a" * 200_000},
        {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01-{'c' * 60_000}"},
    ],
    ids=lambda headers: " ".join(headers),
)
async def test_headers_of_a_request_take_nobodys_request_away(tmp_path: Path, headers: dict[str, str]) -> None:
    """What NATS would obey it refuses on this stream; `deliberation.ask` does not pass it on."""
    async with attacked(tmp_path) as (fleet, _):
        js = fleet.nc.jetstream()
        await fleet.request(task_id="theirs", num_agents=1, rounds=0)
        try:
            await js.publish(subjects.REQUESTED, asked(task_id="mine"), headers=headers)
        except nats.js.errors.APIError:
            pass
        reply = await fleet.nc.request(subjects.ASK, asked(), headers=headers, timeout=WITHIN_S)
        assert json.loads(reply.data)["status"] == "COMPLETED"
        await fleet.inbox.next(subjects.COMPLETED, task_id="theirs")
        assert all(len(str(sent)) < 2_000 for _, sent, _ in fleet.inbox.events)
        async with aclosing(entries(js, subjects.BUCKET)) as stored:
            sizes = [len(entry.value or b"") async for entry in stored]
        assert sizes
        assert max(sizes) < 20_000
        await serves(fleet)


async def test_a_reference_to_what_is_not_a_clients_is_refused_and_stored_once(tmp_path: Path) -> None:
    """A hundred bytes each must not make the dead letters keep a text of megabytes each."""
    async with attacked(tmp_path) as (fleet, users):
        async with users.connected("control") as (control, _):
            js = control.jetstream()
            texts = Texts(js, lambda: control.max_payload)
            theirs = await texts.put("tasks/theirs/state", b'{"task_description": "' + b"s" * 900_000 + b'"}')
            own = await texts.put("requests/whole", b'{"rounds": 99, "task_description": "' + b"s" * 900_000 + b'"}')
            before = (await js.stream_info(subjects.TEXTS_STREAM)).state.bytes
            for number, ref in enumerate([theirs, own] * 10):
                body = json.dumps({"task_id": f"t-{number}", "content_ref": {"name": ref.name}})
                await fleet.nc.publish(subjects.REQUESTED, body.encode())
            for number in range(20):
                await fleet.inbox.next(subjects.REJECTED, task_id=f"t-{number}")
            after = (await js.stream_info(subjects.TEXTS_STREAM)).state.bytes
        assert after - before < 1_000_000
        assert all("s" * 100 not in json.dumps(body) for _, _, body in fleet.inbox.events)
        await serves(fleet)


async def test_a_long_reason_is_stored_a_few_times(tmp_path: Path) -> None:
    async with attacked(tmp_path, SLOW) as (fleet, users), users.connected("operator") as (operator, _):
        await fleet.request(task_id="long", num_agents=4)
        await fleet.inbox.next(subjects.ACCEPTED, task_id="long")
        before = (await operator.jetstream().account_info()).storage
        reason = "r" * 900_000
        code, _ = await fleet.ask(subjects.CANCEL, {"task_id": "long", "reason": reason})
        assert code in (None, "400")
        after = (await operator.jetstream().account_info()).storage
        assert after - before < 20 * len(reason)


@pytest.mark.slow
async def test_many_who_wait_stop_nobody(tmp_path: Path) -> None:
    """For a result that never comes, and for steps of what is not there."""
    async with attacked(tmp_path, SimulatorConfig()) as (fleet, _):
        await fleet.request(task_id="slow", num_agents=1, constraints={"timeout_seconds": 600})
        waiting = json.dumps({"task_id": "slow", "wait_seconds": 1e300}).encode()
        for number in range(2_000):
            await fleet.nc.publish(subjects.RESULT, waiting, reply=f"_INBOX.nobody.{number}")
            await fleet.nc.publish(subjects.FOLLOW, b'{"task_id": "slow"}', reply=f"_INBOX.nobody.f{number}")
        await settle(fleet.nc)
        await serves(fleet)


VIEWER_MAY_NOT = (
    (subjects.REQUESTED, asked()),
    (subjects.ASK, asked()),
    (subjects.FOLLOW, asked()),
    (subjects.CANCEL, b"theirs"),
    (subjects.AGENT_STOP, b'{"task_id": "theirs"}'),
    (subjects.CONTROL_CANCEL, b'{"task_id": "theirs"}'),
    (subjects.AGENT_COMPLETED, b"{}"),
    (f"$KV.{subjects.BUCKET}.theirs", b"{}"),
    (f"$JS.API.STREAM.PURGE.{subjects.DELIBERATIONS}", b""),
    (f"$JS.API.CONSUMER.CREATE.{subjects.DELIBERATION_REQUESTS}.x", b"{}"),
    (f"$JS.API.CONSUMER.MSG.NEXT.{subjects.AGENT_REQUESTS}.{subjects.WORKERS}", b""),
)


async def test_a_viewer_sees_and_does_nothing(tmp_path: Path) -> None:
    async with attacked(tmp_path, SLOW) as (fleet, users), users.connected("viewer") as (viewer, refused):
        await fleet.request(task_id="theirs", num_agents=1)
        await fleet.inbox.next(subjects.ACCEPTED, task_id="theirs")
        for subject, body in VIEWER_MAY_NOT:
            refused.clear()
            await viewer.publish(subject, body)
            await settle(viewer)
            assert refused, subject
        code, reply = await fleet.ask(subjects.RESULT, {"task_id": "theirs"})
        assert (code, reply["status"]) == (None, "IN_PROGRESS")


@pytest.mark.parametrize("user", ["client", "viewer"])
@some_of(2, "target", [subjects.DELIVER_CONTROL, subjects.DELIVER_RESPONSES, subjects.DELIVER_REQUESTS])
async def test_copies_of_events_are_no_work(tmp_path: Path, user: str, target: str) -> None:
    """A consumer may deliver where the fleet listens: what it brings is not from the stream that is read there."""
    async with attacked(tmp_path, SLOW) as (fleet, users), users.connected(user) as (nc, _):
        await fleet.request(task_id="theirs", num_agents=1)
        await fleet.inbox.next(subjects.ACCEPTED, task_id="theirs")
        js = nc.jetstream()
        await _try(
            lambda: js.add_consumer(
                subjects.DELIBERATIONS,
                ConsumerConfig(name="copies", deliver_subject=target, deliver_policy=DeliverPolicy.ALL),
            )
        )
        await settle(nc)
        code, reply = await fleet.ask(subjects.RESULT, {"task_id": "theirs"})
        assert (code, reply["status"]) == (None, "IN_PROGRESS")
        assert fleet.inbox.of("theirs") == [subjects.ACCEPTED]


@pytest.mark.parametrize("user", ["client", "viewer"])
async def test_streams_that_feed_each_other_are_parted(tmp_path: Path, user: str) -> None:
    """Two consumers deliver each stream's messages into the other: without end, if nobody took them away."""
    async with attacked(tmp_path) as (fleet, users), users.connected(user) as (nc, _):
        await serves(fleet)
        last = json.dumps({"last_by_subj": subjects.COMPLETED}).encode()
        await nc.publish(f"$JS.API.STREAM.MSG.GET.{subjects.DELIBERATIONS}", last, reply=subjects.AGENT_COMPLETED)
        await settle(nc)
        js = nc.jetstream()
        pairs = ((subjects.AGENT_RESPONSES, subjects.COMPLETED), (subjects.DELIBERATIONS, subjects.AGENT_COMPLETED))
        for stream, target in pairs:
            # Between asking and being told it may be gone.
            await _try(lambda s=stream, t=target: js.add_consumer(s, ConsumerConfig(name="mine", deliver_subject=t)))
        for stream, _ in pairs:
            await gone(js, stream, "mine")
        await serves(fleet)


@pytest.mark.parametrize("target", [f"$KV.{subjects.BUCKET}.theirs", subjects.AGENT_STOP, subjects.DELIVER_CONTROL])
async def test_a_consumer_that_is_turned_on_the_fleet_is_taken_away(tmp_path: Path, target: str) -> None:
    """NATS tells nobody of a change. One that delivers to its owner stays."""
    async with attacked(tmp_path) as (fleet, users), users.connected("client") as (nc, _):
        js = nc.jetstream()
        mine = ConsumerConfig(name="a", inactive_threshold=60, deliver_subject="_INBOX.x")
        for config in (mine, mine.evolve(name="b")):
            await js.add_consumer(subjects.DELIBERATIONS, config)
        await _try(lambda: js.add_consumer(subjects.DELIBERATIONS, mine.evolve(deliver_subject=target)))
        await gone(js, subjects.DELIBERATIONS, "a")
        assert (await js.consumer_info(subjects.DELIBERATIONS, "b")).config.deliver_subject == "_INBOX.x"
        await serves(fleet)


async def gone(js: JetStreamContext, stream: str, consumer: str) -> None:
    """Waits until there is no such consumer."""

    async def is_so() -> bool:
        try:
            await js.consumer_info(stream, consumer)
        except NotFoundError:
            return True
        return False

    await until(is_so)


# --- a worker that is broken into ------------------------------------------------------------------------------------

OBEYED = (
    {"Nats-Rollup": "all"},
    {"Nats-Rollup": "sub"},
    {"Nats-TTL": "1s"},
    {"Nats-TTL": "never"},
    {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": subjects.AGENT_COMPLETED},
    {"Nats-Expected-Last-Sequence": "0"},
    {"Nats-Expected-Last-Subject-Sequence": "99"},
    {"Nats-Expected-Stream": subjects.DELIBERATIONS},
    {"Nats-Incr": "+1"},
    {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1"},
    {"KV-Operation": "PURGE", "Nats-Rollup": "sub"},
    {"Nats-Stream": subjects.AGENT_RESPONSES, "Nats-Sequence": "1"},
)
"""Headers that NATS acts on, or that it writes itself."""
OF_WORKERS = (
    *(subjects.AGENT_COMPLETED, subjects.AGENT_FAILED, subjects.AGENT_PROGRESS),
    f"deadletter.{subjects.AGENT_REQUESTED}",
    *(f"$KV.{subjects.WORKERS_BUCKET}.{key}" for key in ("limits", "clock.w", "status.victim")),
    *(f"$O.{subjects.ANSWERS}.{kind}.x" for kind in "MC"),
)
JUNK = (b"", b"null", b"{}", b"[" * 20_000, b'{"task_id": "theirs", "agent_id": "agent-1"}', b"\xff" * 1_000)


SECONDS = SimulatorConfig(tokens_per_second=20, answer_tokens=60)


@pytest.mark.slow
async def test_a_broken_worker_stops_nobody(tmp_path: Path) -> None:
    """Whatever it writes where it may, under each header: events stay, and a task that runs ends by itself."""
    async with attacked(tmp_path, SECONDS) as (fleet, users), users.connected("worker") as (worker, refused):
        await fleet.request(task_id="theirs", num_agents=2, rounds=0)
        await fleet.inbox.next(subjects.ACCEPTED, task_id="theirs")
        for subject in OF_WORKERS:
            for headers in OBEYED:
                for body in JUNK:
                    await worker.publish(subject, body, headers=headers)
            await settle(worker)
        assert refused == []
        await fleet.inbox.next(subjects.COMPLETED, task_id="theirs")
        assert fleet.inbox.of("theirs") == [subjects.ACCEPTED, subjects.COMPLETED]
        await serves(fleet)


@pytest.mark.slow
async def test_a_broken_worker_takes_no_text_away(tmp_path: Path) -> None:
    """Neither what the control plane has stored, nor another worker's answer: by no header, nor by writing over it."""
    long = b'{"text": "' + b"t" * 1_200_000 + b'"}'
    async with attacked(tmp_path) as (_, users), users.connected("control") as (control, _):
        ours = Texts(control.jetstream(), control.max_payload)
        async with users.connected("worker") as (worker, _):
            theirs = Texts(worker.jetstream(), worker.max_payload, store=subjects.ANSWERS)
            refs = [await ours.put("tasks/t/state", long), await theirs.put("answers/t", long)]
            metas = [base64.urlsafe_b64encode(ref.name.encode()).decode() for ref in refs]
            subject, chunks = f"$O.{subjects.ANSWERS}.M.{metas[1]}", set()
            async with users.connected("operator") as (operator, _):
                js = operator.jetstream()
                for stream in (subjects.TEXTS_STREAM, subjects.ANSWERS_STREAM):
                    chunks |= set((await js.stream_info(stream, subjects_filter="$O.*.C.*")).state.subjects or {})
            false = json.dumps({"name": refs[1].name, "bucket": subjects.ANSWERS, "nuid": "x", "size": 1}).encode()
            deleted = json.dumps({"name": refs[1].name, "bucket": "x", "nuid": "", "size": 0, "deleted": True}).encode()
            for target in (subject, f"$O.{subjects.TEXTS}.M.{metas[0]}", *chunks):
                for headers in OBEYED:
                    for body in (false, deleted, b"t", b""):
                        await worker.publish(target, body, headers=headers)
            for store in (subjects.TEXTS_STREAM, subjects.ANSWERS_STREAM):
                for verb in ("STREAM.PURGE", "STREAM.MSG.DELETE", "STREAM.DELETE", "STREAM.UPDATE"):
                    await worker.publish(f"$JS.API.{verb}.{store}", b'{"seq": 1}')
            await settle(worker)
            late = await theirs.put("answers/later", long)
        for ref in (*refs, late):
            assert await ours.get(ref) == long


@pytest.mark.slow
async def test_a_worker_answers_only_the_calls_that_it_was_given(tmp_path: Path) -> None:
    """Whatever it publishes for another worker's call, under its message id or another: the true answer counts."""
    async with attacked(tmp_path, SECONDS) as (fleet, users), users.connected("worker") as (worker, _):
        async with users.connected("operator") as (operator, _):
            calls = await operator.subscribe(subjects.AGENT_REQUESTED)
            await settle(operator)
            await fleet.request(task_id="theirs", num_agents=2, rounds=0, constraints={"timeout_seconds": 20})
            given = [await calls.next_msg(timeout=WITHIN_S) for _ in range(2)]
        (call, other) = (decode(msg.data, AgentRequested) for msg in given)
        true, another = ((msg.headers or {})[CALL_TOKEN] for msg in given)
        assert true != another
        forged = encode(agents.answer(call, text="FORGED"))
        for name in (call.msg_id, f"{call.msg_id}.{'0' * 32}", f"{call.msg_id}.{(given[1].headers or {})[CALL_TOKEN]}"):
            for token in (
                {},
                {CALL_TOKEN: ""},
                {CALL_TOKEN: "0" * 32},
                {CALL_TOKEN: (given[1].headers or {})[CALL_TOKEN]},
            ):
                for subject, body in (
                    (subjects.AGENT_COMPLETED, forged),
                    (subjects.AGENT_COMPLETED, b"junk"),
                    (subjects.AGENT_FAILED, encode(agents.failure(call))),
                    (subjects.AGENT_FAILED, b"junk"),
                ):
                    await worker.publish(subject, body, headers={"Nats-Msg-Id": name, **token})
        await settle(worker)
        done = await fleet.inbox.next(subjects.COMPLETED, task_id="theirs")
        assert (len(done["results"]), done["failed_agents"], done["degraded"]) == (2, [], False)
        assert "FORGED" not in json.dumps(done)
        assert {call.agent_id, other.agent_id} == {entry["agent_id"] for entry in done["results"]}
        assert fleet.inbox.of("theirs") == [subjects.ACCEPTED, subjects.COMPLETED]
        await serves(fleet)


async def _try(attack: Callable[[], Awaitable[Any]]) -> None:
    try:
        await attack()
    except (nats.errors.Error, TimeoutError):
        pass  # refused is fine
