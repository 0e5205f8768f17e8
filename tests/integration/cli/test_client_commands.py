"""`fleet watch` and its like, as the user `client` of the shipped permissions."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fleet import subjects
from fleet.cli import watching
from fleet.cli.watching import _accepted_at, _subscribe
from fleet.client.session import session
from fleet.config import load, unconfigured
from fleet.jetstream import topology
from tests.support.client import commands
from tests.support.fleets.control_plane import Fleet
from tests.support.fleets.whole_fleet import whole
from tests.support.nats.permitted import Users
from tests.support.waiting import WITHIN_S


@pytest.fixture
async def fleet(users: Users) -> AsyncIterator[Fleet]:
    urls = {"worker_url": users.url("worker"), "client_url": users.url("client")}
    async with whole(users.url("control"), **urls) as running:  # type: ignore[arg-type]
        yield running


async def test_watch_tells_a_client_the_whole_course(fleet: Fleet, users: Users) -> None:
    """From acceptance to the end, every answer and all progress."""
    await fleet.request(task_id="seen", num_agents=2, rounds=0)
    await fleet.inbox.next(subjects.COMPLETED, task_id="seen")
    status, out, err = await commands.fleet("watch", "seen", "--json", "--nats-url", users.url("client"))
    assert (status, err) == (0, "")
    told = [json.loads(line)["subject"] for line in out.splitlines()]
    # A quick answer may be stored before the acceptance is.
    assert (told.count(subjects.ACCEPTED), told[-1]) == (1, subjects.COMPLETED)
    assert told.count(subjects.AGENT_COMPLETED) == 4
    _, out, _ = await commands.fleet("watch", "seen", "--nats-url", users.url("client"))
    assert ("  propose  done" in out, "  score  done" in out) == (True, True)


@pytest.mark.parametrize("verb", ["result", "report", "watch", "cancel"])
async def test_what_is_no_id_is_bad_usage(fleet: Fleet, users: Users, verb: str) -> None:
    """Nobody waits for it."""
    status, out, err = await commands.fleet(verb, "no id", "--nats-url", users.url("client"))
    assert (status, out, "$.task_id" in err) == (2, "", True)


async def test_watch_waits_for_a_task_that_nobody_knows_yet(fleet: Fleet, users: Users) -> None:
    """It says so at once, reads no history of others, and then tells the whole course."""
    await fleet.request(task_id="before", num_agents=1, rounds=0)
    await fleet.inbox.next(subjects.COMPLETED, task_id="before")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fleet.cli", "watch", "later", "--json", "--nats-url", users.url("client")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=unconfigured(os.environ),
    )
    assert process.stderr is not None
    async with asyncio.timeout(WITHIN_S):
        assert b"nobody knows a task 'later' yet" in await process.stderr.readline()
        await fleet.request(task_id="later", num_agents=1, rounds=0)
        out, _ = await process.communicate()
    told = [json.loads(line) for line in out.splitlines()]
    # What one stream brings may overtake what another does.
    assert {subjects.ACCEPTED, subjects.AGENT_COMPLETED} <= {event["subject"] for event in told}
    assert told[-1]["subject"] == subjects.COMPLETED
    assert {event["event"]["task_id"] for event in told} == {"later"}
    assert process.returncode == 0


async def test_watch_reads_no_history_of_a_task_that_nobody_knows(
    fleet: Fleet, users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The streams hold days of other tasks."""
    monkeypatch.setattr(watching, "CLOCKS_DIFFER_S", 0.0)
    await fleet.request(task_id="before", num_agents=1, rounds=0)
    await fleet.inbox.next(subjects.COMPLETED, task_id="before")
    async with session(load({"NATS_URL": users.url("client")})) as client:
        since = await _accepted_at(client, "later")
        assert await _subscribe(client, subjects.DELIBERATIONS, asyncio.Queue(), since, everything=True) == 0


async def test_watch_goes_on_when_its_consumer_is_lost(fleet: Fleet, users: Users) -> None:
    """nats-py then makes it anew, under which name NATS must not know yet."""
    async with session(load({"NATS_URL": users.url("client")})) as client:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        await _subscribe(client, subjects.AGENT_RESPONSES, queue, None, everything=True)
        (subscription,) = (sub for sub in client.nc._subs.values() if getattr(sub, "_jsi", None))
        first = subscription._jsi._ccreq.name
        await subscription._jsi.reset_ordered_consumer(1)
        await fleet.request(task_id="later", num_agents=1, rounds=0)
        async with asyncio.timeout(WITHIN_S):
            assert (await queue.get()).subject == subjects.AGENT_COMPLETED
        assert subscription._jsi._ccreq.name != first


@pytest.mark.parametrize("name", ["worker", "client"])
async def test_what_is_refused_is_told_at_once(users: Users, name: str) -> None:
    """As what it is, not as an outage; and no password in it."""
    async with users.connected("control") as (nc, _):
        await topology.declare(nc.jetstream(), load({}))
    words = ["watch", "any"] if name == "worker" else ["deadletter", "show", "1"]
    status, out, err = await commands.fleet(*words, "--nats-url", users.url(name))
    assert (status, out) == (1, "")
    assert re.match(rf"fleet: user '{name}' may not (publish|subscribe to) \S+: ", err)
    assert f"p{name}" not in err


async def test_no_password_is_in_an_error(users: Users) -> None:
    """Of a server that is not there, of one that wants another password, of one without a fleet."""
    url = users.url("client")
    for wrong in (url.replace("@127.0.0.1:", "@127.0.0.1:1"), url.replace("pclient", "pclient-wrong"), url):
        for words in (["result", "any"], ["submit", "x"], ["doctor"]):
            _, out, err = await commands.fleet(*words, "--nats-url", wrong)
            assert "pclient" not in out + err
            assert out + err
