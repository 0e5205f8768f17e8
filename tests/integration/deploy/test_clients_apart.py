"""Clients in an account of their own, as `deploy/nats/clients-apart.conf` has it: each use, and each attack."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from nats.js.api import ConsumerConfig

from fleet import subjects
from fleet.client import connect
from fleet.config import load
from fleet.jetstream import topology
from fleet.jetstream.payloads import Texts
from tests.support.client import commands
from tests.support.client.following import Follower, steps
from tests.support.fleets.control_plane import Fleet
from tests.support.fleets.whole_fleet import whole
from tests.support.nats import natscli
from tests.support.nats.permitted import CLIENTS_APART, Users, permitted, settle
from tests.support.waiting import WITHIN_S
from tests.support.workers.fake_control_plane import SLOW
from workers.simulator.server import SimulatorConfig

pytestmark = pytest.mark.usefixtures("nats_binary")

KEY = f"$KV.{subjects.BUCKET}.victim"
TARGETS = (
    KEY,
    *subjects.TERMINAL,
    subjects.AGENT_COMPLETED,
    subjects.AGENT_REQUESTED,
    subjects.AGENT_STOP,
    subjects.CONTROL_CANCEL,
    subjects.DELIVER_RESPONSES,
    subjects.DELIVER_CONTROL,
    subjects.instance_of("x"),
    f"$O.{subjects.TEXTS}.C.x",
    "_INBOX.control.x",
)
"""Where the fleet listens, or keeps something."""


@asynccontextmanager
async def fleet_with_clients_apart(
    folder: Path, simulated: SimulatorConfig | None = None
) -> AsyncIterator[tuple[Fleet, Users]]:
    async with permitted(folder / "server", permissions=CLIENTS_APART) as users:
        names = {"worker_url": users.url("worker"), "client_url": users.url("client")}
        async with whole(users.url("control"), simulated, **names) as fleet:  # type: ignore[arg-type]
            yield fleet, users


def test_what_is_exported_is_imported_and_allowed() -> None:
    """Line by line. Answers that take as long as a deliberation are waited for as long."""
    text = re.sub(r"#.*", "", CLIENTS_APART.read_text())
    for kind, list_ in (("service", "publish"), ("stream", "subscribe")):
        exported = set(re.findall(rf'{{ {kind}: "([^"]+)"', text))
        imported = set(re.findall(rf'{{ {kind}: {{ account: FLEET, subject: "([^"]+)" }} }}', text))
        (block,) = re.findall(rf"{list_} {{\s+allow: \[(.*?)\]", text, re.DOTALL)
        assert exported == imported == set(re.findall(r'"([^"]+)"', block)) - {"$SYS.REQ.USER.INFO", "_INBOX.>"}
    for name in (subjects.ASK, subjects.FOLLOW):
        assert re.search(rf'service: "{name}".* threshold: "2h"', text)


# --- uses -------------------------------------------------------------------------------------------------------------


async def test_a_client_asks_follows_reads_and_cancels(tmp_path: Path) -> None:
    """By the same subjects as in the fleet's account; it hears events, and the server refuses nothing of it."""
    async with fleet_with_clients_apart(tmp_path, SimulatorConfig(answer_tokens=3_000)) as (fleet, _):
        refused: list[Any] = []
        fleet.nc.error_listener = lambda error: _note(refused, error)
        await fleet.request(task_id="one", num_agents=1)
        await fleet.inbox.next(subjects.ACCEPTED, task_id="one")
        done = await fleet.inbox.next(subjects.COMPLETED, task_id="one")
        code, reply = await fleet.ask(subjects.RESULT, {"task_id": "one", "wait_seconds": 1})
        assert (code, reply["result"]) == (None, done)
        code, asked = await fleet.ask(subjects.ASK, {"task_id": "two", "task_description": "Design it"})
        assert (code, asked["status"]) == (None, "COMPLETED")
        replies = await (await Follower(fleet).call({"task_description": "Design it"})).rest()
        assert {"propose", "critique", "revise", "score"} == {phase for phase, *_ in steps(replies)}
        assert replies[-1]["status"] == "COMPLETED"
        bucket = await fleet.nc.jetstream().key_value(subjects.BUCKET)
        assert json.loads((await bucket.get("one")).value or b"")["status"] == "COMPLETED"
        code, reply = await fleet.ask(subjects.CANCEL, {"task_id": "one"})
        assert (code, reply["status"]) == ("409", "COMPLETED")
        assert refused == []


async def _note(refused: list[Any], error: Exception) -> None:
    refused.append(error)


async def test_a_client_reads_long_texts(tmp_path: Path) -> None:
    """One by one, as the fleet's own client does."""
    async with fleet_with_clients_apart(tmp_path) as (fleet, users):
        async with users.connected("control") as (control, _):
            ref = await Texts(control.jetstream(), 32_768).put("tasks/x/y", b"z" * 100_000)
        assert await Texts(fleet.nc.jetstream(), 32_768).get(ref) == b"z" * 100_000


async def test_the_client_for_python_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fleet_with_clients_apart(tmp_path) as (_, users):
        monkeypatch.setenv("NATS_URL", users.url("client"))
        async with connect() as client:
            result = await client.ask("Design it", agents=2)
            assert len(result.results) == 2


async def test_commands_say_of_an_unknown_task_that_nobody_knows_it(tmp_path: Path) -> None:
    """Though this user may not read events, which might tell of it."""
    async with fleet_with_clients_apart(tmp_path) as (_, users):
        at = ["--nats-url", users.url("client")]
        code, out, _err = await commands.fleet("result", "nobody", "--json", *at)
        assert (code, json.loads(out)["status"]) == (2, "UNKNOWN")
        code, _out, err = await commands.fleet("report", "nobody", *at)
        assert (code, "nobody knows a task" in err) == (2, True)


async def test_the_command_line_of_nats_works(tmp_path: Path) -> None:
    """`nats req`, with several replies, `nats kv get` and `nats micro`."""
    binary = natscli.nats_cli(tmp_path)
    async with fleet_with_clients_apart(tmp_path) as (_, users):
        url = users.url("client")
        words = ("req", subjects.FOLLOW, "--wait-for-empty", "--reply-timeout", "20s", "--raw")
        status, said = await natscli.run(binary, url, *words, '{"task_id": "cli", "task_description": "Design it"}')
        assert status == 0, said
        assert '"COMPLETED"' in said
        status, said = await natscli.run(binary, url, "kv", "get", subjects.BUCKET, "cli", "--raw")
        assert (status, '"COMPLETED"' in said) == (0, True), said
        status, said = await natscli.run(binary, url, "micro", "ls")
        assert (status, subjects.SERVICE in said) == (0, True), said


# --- attacks ----------------------------------------------------------------------------------------------------------


async def test_no_reply_subject_reaches_the_fleet(tmp_path: Path) -> None:
    """Whatever NATS or the fleet answers, and to whatever subject it is to go: a running task ends as it would have."""
    async with fleet_with_clients_apart(tmp_path, SLOW) as (fleet, users), users.connected("operator") as (operator, _):
        heard: list[str] = []

        async def hear(msg: Any) -> None:
            heard.append(msg.subject)

        for pattern in ("deliberation.>", "agent.>", "control.>", f"$KV.{subjects.BUCKET}.>"):
            await operator.subscribe(pattern, cb=hear)
        await settle(operator)
        await fleet.request(task_id="victim", num_agents=2)
        await fleet.inbox.next(subjects.ACCEPTED, task_id="victim")
        js = operator.jetstream()
        before = await js.get_last_msg(subjects.STATES, KEY)
        heard.clear()
        for target in TARGETS:
            for subject, body in _calls():
                await fleet.nc.publish(subject, body, reply=target)
        await settle(fleet.nc)
        assert (await fleet.ask(subjects.RESULT, {"task_id": "victim"}))[1]["status"] == "IN_PROGRESS"
        await settle(operator)
        after = await js.get_last_msg(subjects.STATES, KEY)
        assert (after.seq, after.data) == (before.seq, before.data)
        allowed = {subjects.REQUESTED, subjects.REJECTED, f"deadletter.{subjects.REQUESTED}", subjects.CANCEL}
        allowed |= {subjects.AGENT_PROGRESS, subjects.RESULT, subjects.ASK, subjects.FOLLOW}
        assert set(heard) <= allowed
        assert (await fleet.ask(subjects.CANCEL, {"task_id": "victim"}))[1]["status"] == "CANCELLED"
        await fleet.inbox.next(subjects.CANCELLED, task_id="victim")


def _calls() -> list[tuple[str, bytes]]:
    """Everything that a client may publish and that somebody answers."""
    last = json.dumps({"last_by_subj": KEY}).encode()
    return [
        (subjects.REQUESTED, b"{}"),
        (subjects.RESULT, b'{"task_id": "victim"}'),
        (subjects.RESULT, b"nobody"),
        (subjects.CANCEL, b"nobody"),
        (subjects.ASK, b"{}"),
        (subjects.FOLLOW, b'{"task_id": "nobody"}'),
        ("$SRV.PING", b""),
        ("$SRV.INFO", b""),
        ("$JS.API.INFO", b""),
        (f"$JS.API.STREAM.INFO.{subjects.STATES}", b""),
        (f"$JS.API.STREAM.MSG.GET.{subjects.STATES}", last),
        (f"$JS.API.DIRECT.GET.{subjects.STATES}", last),
        (f"$JS.API.DIRECT.GET.{subjects.STATES}.{KEY}", b""),
        (f"$JS.API.STREAM.MSG.GET.{subjects.TEXTS_STREAM}", b'{"seq": 1}'),
        ("$SYS.REQ.USER.INFO", b""),
    ]


@pytest.mark.slow
async def test_no_consumer_delivers_within_the_fleet(tmp_path: Path) -> None:
    """There is no way to make one, by any subject of JetStream."""
    async with permitted(tmp_path / "nats", permissions=CLIENTS_APART) as users:
        async with users.connected("control") as (control, _):
            await topology.declare(control.jetstream(), load({}))
        async with users.connected("client") as (client, refused):
            js = client.jetstream(timeout=1)
            for stream in load({}).streams:
                refused.clear()
                config = ConsumerConfig(name="mine", deliver_subject=KEY)
                with pytest.raises((nats.errors.Error, TimeoutError)):
                    await js.add_consumer(stream, config)
                with pytest.raises((nats.errors.Error, TimeoutError)):
                    await js.add_consumer(stream, ConsumerConfig(durable_name="mine"))
                assert refused


async def test_inboxes_are_apart(tmp_path: Path) -> None:
    """A client hears nothing of what the fleet, or its operator, is answered."""
    async with (
        permitted(tmp_path / "server", permissions=CLIENTS_APART) as users,
        users.connected("client") as (client, _),
        users.connected("operator") as (operator, _),
    ):
        heard = await client.subscribe("_INBOX.>")
        await settle(client)
        await operator.request("$JS.API.INFO", b"", timeout=WITHIN_S)
        await client.request("$JS.API.INFO", b"", timeout=WITHIN_S)
        assert b"account_info" in (await heard.next_msg(timeout=WITHIN_S)).data
        with pytest.raises((nats.errors.TimeoutError, asyncio.TimeoutError)):
            await heard.next_msg(timeout=0.2)
