"""What does not fit one message travels by reference: nobody who asks notices, and nothing of it stays for long."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.js import JetStreamContext

from fleet import subjects
from fleet.config import load
from fleet.control.recovery.watchdog import PROBE_SUBJECT
from fleet.jetstream.connection import connect
from fleet.jetstream.payloads import MissingText, Texts
from fleet.messages import ContentRef, DeliberationCompleted, encode
from fleet.messages.headers import CALL_TOKEN
from tests.support.client import commands
from tests.support.fleets.control_plane import Fleet
from tests.support.fleets.whole_fleet import whole
from tests.support.nats import servers
from tests.support.nats.servers import Server
from tests.support.waiting import until
from workers.simulator.server import SimulatorConfig

pytestmark = pytest.mark.usefixtures("nats_binary")

MAX_PAYLOAD = 64 * 1024
LONG = SimulatorConfig(answer_tokens=12_000, max_model_len=1_000_000)
"""About as much text in each proposal as fits one message: some of them do not."""
STREAM = f"OBJ_{subjects.TEXTS}"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with servers.one(tmp_path / "nats", max_payload="64KB") as running:
        yield running


@pytest.fixture
async def fleet(server: Server) -> AsyncIterator[Fleet]:
    async with whole(server.url, LONG) as running:
        yield running


class Store:
    """The object store, as any client sees it."""

    def __init__(self, fleet: Fleet) -> None:
        self.js: JetStreamContext = fleet.nc.jetstream()
        self.texts = Texts(self.js, MAX_PAYLOAD)

    async def names(self) -> list[str]:
        objects = await self.js.object_store(subjects.TEXTS)
        return sorted(info.name for info in await objects.list() if info.name)

    async def get(self, ref: dict[str, Any]) -> bytes:
        """With the client library's own reading."""
        objects = await self.js.object_store(subjects.TEXTS)
        return bytes((await objects.get(ref["name"])).data or b"")

    async def put(self, name: str, body: bytes) -> None:
        """With the client library's own writing, whose chunks must fit."""
        from nats.js.api import ObjectMeta, ObjectMetaOptions

        objects = await self.js.object_store(subjects.TEXTS)
        await objects.put(name, body, meta=ObjectMeta(options=ObjectMetaOptions(max_chunk_size=32 * 1024)))


async def command(*arguments: str) -> dict[str, Any]:
    """The last line that `fleet …` prints."""
    status, out, err = await commands.fleet(*arguments)
    assert status == 0, err
    return dict(json.loads(out.splitlines()[-1]))


async def test_a_large_deliberation_is_whole_everywhere(fleet: Fleet, server: Server) -> None:
    """Event, state, `deliberation.ask`, `deliberation.result`, `fleet watch` and `fleet result` tell the same."""
    store = Store(fleet)
    body = {"task_id": "large", "task_description": "Design it at length", "num_agents": 4}
    _, reply = await fleet.ask(subjects.ASK, body)
    asked = msgspec.json.decode(await store.get(reply["content_ref"]), type=DeliberationCompleted)
    texts = {entry.agent_id: entry.proposal.content for entry in asked.results}
    assert reply["status"] == "COMPLETED"
    assert sum(len(text) for text in texts.values()) > 2 * MAX_PAYLOAD

    event = await fleet.inbox.next(subjects.COMPLETED, task_id="large")
    told = {}
    for entry in event["results"]:
        ref = entry["proposal"]["content_ref"]
        told[entry["agent_id"]] = (await store.get(ref)).decode() if ref else entry["proposal"]["content"]
    assert told == texts

    bucket = await fleet.nc.jetstream().key_value(subjects.BUCKET)
    top = json.loads((await bucket.get("large")).value or b"")
    assert (top["task_id"], top["status"]) == ("large", "COMPLETED")
    state = json.loads(await store.get(top["content_ref"]))
    assert {entry["agent_id"]: entry["proposal"]["content"] for entry in state["result"]["results"]} == texts

    _, reply = await fleet.ask(subjects.RESULT, {"task_id": "large"})
    assert json.loads(await store.get(reply["content_ref"]))["result"] == state["result"]

    watched = await command("watch", "large", "--json", "--nats-url", server.url)
    assert watched["event"] == state["result"]
    shown = await command("result", "large", "--json", "--nats-url", server.url)
    assert shown["result"] == state["result"]


async def test_only_what_is_referred_to_stays_after_the_end(fleet: Fleet) -> None:
    """Earlier states are gone; left are the state, the event's texts, and for a while the calls and the answers."""
    store = Store(fleet)
    await fleet.request(task_id="tidy", num_agents=4)
    event = await fleet.inbox.next(subjects.COMPLETED, task_id="tidy")
    bucket = await fleet.nc.jetstream().key_value(subjects.BUCKET)
    state = json.loads((await bucket.get("tidy")).value or b"")["content_ref"]["name"]
    holders = [event["task"]]
    for entry in event["results"]:
        holders += [entry["proposal"], *entry["earlier"]]
    told = {ref["name"] for holder in holders if (ref := holder["content_ref"])}

    async def tidy() -> bool:
        left = {name for name in await store.names() if not name.startswith(("answers/", "calls/"))}
        return left == {state, *told}

    await until(tidy)
    passing = [name for name in await store.names() if name.startswith(("answers/", "calls/"))]
    assert len(passing) <= 4 * (2 + 2) + 4 * (1 + 1), "one of each call, and of each propose and revise call's answer"
    stored = (await fleet.nc.jetstream().stream_info(STREAM, subjects_filter=">")).state.subjects or {}
    subjects_left = set(stored) - {PROBE_SUBJECT}
    assert len([name for name in subjects_left if ".M." in name]) == len(told) + 1 + len(passing)
    assert len([name for name in subjects_left if ".C." in name]) == len(told) + 1 + len(passing)


async def test_asking_again_for_a_result_stores_nothing_anew(fleet: Fleet) -> None:
    """Two replies that are equal are one object."""
    store = Store(fleet)
    await fleet.request(task_id="twice", num_agents=3)
    await fleet.inbox.next(subjects.COMPLETED, task_id="twice")
    replies = [(await fleet.ask(subjects.RESULT, {"task_id": "twice"}))[1] for _ in range(3)]
    assert len({reply["content_ref"]["name"] for reply in replies}) == 1
    assert len([name for name in await store.names() if "/reply" in name]) == 1


async def test_every_text_ends_by_itself(fleet: Fleet) -> None:
    """Each object's messages carry the lifetime of what refers to it."""
    js = fleet.nc.jetstream()
    await fleet.request(task_id="mortal", num_agents=3)
    await fleet.inbox.next(subjects.COMPLETED, task_id="mortal")
    lifetimes = set()
    for stream in (STREAM, f"OBJ_{subjects.ANSWERS}"):
        sequence = 0
        while sequence < (await js.stream_info(stream)).state.last_seq:
            msg = await js.get_msg(stream, sequence + 1, subject=">", next=True)
            if msg.subject != PROBE_SUBJECT:
                lifetimes.add((msg.headers or {}).get("Nats-TTL"))
            sequence = msg.seq
    assert lifetimes <= {"604800s", "86400s", "7200s"}
    assert {"604800s", "86400s"} <= lifetimes


async def test_a_request_may_come_by_reference(fleet: Fleet) -> None:
    """Beside `content_ref` a field counts before the object's; the task is as if it had come in one message."""
    store = Store(fleet)
    metadata = {"material": "x" * (3 * MAX_PAYLOAD)}
    whole_body = {"task_id": "other", "task_description": "Sum it up", "constraints": {"metadata": metadata}}
    await store.put("requests/mine", encode(whole_body))
    await fleet.request(task_id="referred", task_description=None, num_agents=1, content_ref={"name": "requests/mine"})
    done = await fleet.inbox.next(subjects.COMPLETED, task_id="referred")
    assert len(done["results"]) == 1
    assert json.loads(await store.get(done["task"]["content_ref"]))["constraints"]["metadata"] == metadata
    body = {"num_agents": 1, "content_ref": {"name": "requests/mine", "bucket": subjects.TEXTS}}
    _, asked = await fleet.ask(subjects.ASK, body)
    assert (asked["task_id"], asked["status"]) == ("other", "COMPLETED")


@pytest.mark.parametrize(("ref", "path"), [
    ({"name": "requests/nothing"}, "$.content_ref"),
    ({"name": "x", "bucket": "elsewhere"}, "$.content_ref"),
    ({"bytes": 3}, "$.content_ref.name"),
    ("requests/mine", "$.content_ref"),
    (7, "$.content_ref"),
])  # fmt: skip
async def test_a_request_whose_reference_leads_nowhere_is_rejected(fleet: Fleet, ref: Any, path: str) -> None:
    """Code `invalid`, the path, its own id; asked for, it is a service error 400."""
    await fleet.nc.request(subjects.REQUESTED, json.dumps({"task_id": "lost", "content_ref": ref}).encode())
    rejected = await fleet.inbox.next(subjects.REJECTED, task_id="lost")
    assert (rejected["code"], rejected["path"]) == ("invalid", path)
    code, body = await fleet.ask(subjects.ASK, {"content_ref": ref})
    assert (code, body["path"]) == ("400", path)


async def test_the_command_line_sends_what_is_too_long_by_reference(fleet: Fleet, server: Server) -> None:
    """`fleet ask` with a task of more than one message answers with its result, whole."""
    task = "Sum this up: " + "ä" * 60_000
    shown = await command("ask", task, "--agents", "2", "--rounds", "0", "--json", "--nats-url", server.url)
    assert len(shown["results"][0]["proposal"]["content"]) > 1000


async def test_a_large_dead_letter_is_whole(fleet: Fleet) -> None:
    """An answer that nobody can read, and that came by reference, is kept with a text that lives as long as it does."""
    store = Store(fleet)
    js = fleet.nc.jetstream()
    ref = await store.texts.put("answers/broken", b'{"broken": ' + b"x" * (2 * MAX_PAYLOAD))
    body = encode({"task_id": "nobody", "content_ref": ref})
    await js.publish(subjects.AGENT_COMPLETED, body, headers={CALL_TOKEN: "somebody's"})

    async def buried() -> bool:
        return bool((await js.stream_info(subjects.DEAD_LETTERS)).state.messages)

    await until(buried)
    letter = json.loads((await js.get_msg(subjects.DEAD_LETTERS, 1)).data or b"")
    assert letter["content_ref"]["name"].startswith("deadletters/")
    assert await store.get(letter["content_ref"]) == await store.texts.get(ref)


async def test_a_text_that_was_tampered_with_is_not_given_out(fleet: Fleet) -> None:
    """The name ends with the digest: whoever writes something else under it is found out."""
    store = Store(fleet)
    ref = await store.texts.put("answers/honest", b"x" * (2 * MAX_PAYLOAD))
    assert len(await store.texts.get(ref)) == 2 * MAX_PAYLOAD
    await store.put(ref.name, b"y" * (2 * MAX_PAYLOAD))
    with pytest.raises(MissingText):
        await store.texts.get(ref)
    with pytest.raises(MissingText):
        await store.texts.get(ContentRef(bucket=subjects.TEXTS, name="answers/never", bytes=1))


async def test_max_payload_is_that_of_the_server_as_it_is_now(tmp_path: Path, nats_binary: None) -> None:
    """It may come back with a smaller one; what was small enough before goes to the object store then."""
    async with servers.one(tmp_path) as server:
        nc = await connect(load({"NATS_URL": server.url}), "test")
        texts = Texts(nc.jetstream(), lambda: nc.max_payload)
        body = b"x" * 130_000
        assert not texts.too_large(body)
        await server.stop()
        server._max_payload = "64KB"
        await server.start()
        await until(lambda: nc.is_connected and texts.too_large(body))
        await nc.close()
