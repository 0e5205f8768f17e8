"""`fleet list`, `report`, `status` and `top` as the users `client` and `viewer` of the shipped permissions."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fleet import subjects
from fleet.client.listing import summaries
from fleet.client.session import session
from fleet.config import load
from fleet.messages.headers import headers
from tests.support.client import commands
from tests.support.fleets.control_plane import Fleet
from tests.support.fleets.whole_fleet import whole
from tests.support.nats.permitted import Users
from workers.simulator.server import SimulatorConfig

each_user = pytest.mark.parametrize("name", ["client", "viewer"])


@pytest.fixture
async def fleet(users: Users) -> AsyncIterator[Fleet]:
    """One deliberation has ended, one was cancelled, one runs for a long time."""
    urls = {"worker_url": users.url("worker"), "client_url": users.url("client")}
    async with whole(users.url("control"), SimulatorConfig(latency_ms=60_000), **urls) as running:
        await running.request(task_id="gone", num_agents=1)
        await running.inbox.next(subjects.ACCEPTED, task_id="gone")
        await running.ask(subjects.CANCEL, {"task_id": "gone", "reason": "enough"})
        await running.request(task_id="late", num_agents=1, constraints={"timeout_seconds": 1})
        await running.inbox.next(subjects.FAILED, task_id="late")
        await running.request(task_id="running", task_description="Why?\n\x1b[2J", num_agents=2)
        await running.inbox.next(subjects.ACCEPTED, task_id="running")
        yield running


@each_user
async def test_list_tells_what_runs_and_what_has_ended(fleet: Fleet, users: Users, name: str) -> None:
    """Oldest first; a status that was asked for alone."""
    code, out, err = await commands.fleet("list", "--json", "--nats-url", users.url(name))
    found = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [(each["task_id"], each["status"]) for each in found] == [
        ("gone", "CANCELLED"),
        ("late", "TIMEOUT"),
        ("running", "IN_PROGRESS"),
    ]
    assert {each["tenant"] for each in found} == {"default"}
    assert found[0]["error"] == "enough"
    assert (found[2]["phase"], found[2]["done"], found[2]["expected"]) == ("propose", 0, 2)
    code, out, _ = await commands.fleet("list", "--status", "timeout", "--nats-url", users.url(name))
    assert (code, "late" in out, "gone" in out) == (0, True, False)
    code, out, _ = await commands.fleet("list", "--limit", "1", "--nats-url", users.url(name))
    assert ("running" in out, "gone" in out, "\x1b" in out) == (True, False, False)


async def test_list_refuses_what_is_no_status(fleet: Fleet, users: Users) -> None:
    """Exit status 2, and which there are."""
    code, _, err = await commands.fleet("list", "--status", "DONE", "--nats-url", users.url("client"))
    assert (code, "IN_PROGRESS" in err) == (2, True)


@each_user
async def test_top_and_status_show_what_runs(fleet: Fleet, users: Users, name: str) -> None:
    """Off a terminal `top` looks once."""
    code, out, err = await commands.fleet("top", "--nats-url", users.url(name))
    assert (code, err) == (0, "")
    assert "running" in out
    assert "propose: 0 of 2 calls" in out
    code, out, _ = await commands.fleet("top", "--once", "--json", "--nats-url", users.url(name))
    assert [each["task_id"] for each in json.loads(out)["deliberations"]] == ["gone", "late", "running"]
    code, out, _ = await commands.fleet("status", "--json", "--nats-url", users.url(name))
    assert (code, json.loads(out)["running"]) == (0, ["running"])


@each_user
async def test_report_of_what_has_not_ended(fleet: Fleet, users: Users, name: str) -> None:
    """Exit status 4; 2 for what nobody knows; one that failed has a report."""
    assert (await commands.fleet("report", "running", "--nats-url", users.url(name)))[0] == 4
    assert (await commands.fleet("report", "nobody", "--nats-url", users.url(name)))[0] == 2
    code, out, _ = await commands.fleet("report", "late", "--nats-url", users.url(name))
    assert (code, "There is no verdict" in out) == (0, True)


@each_user
async def test_what_the_list_shows_can_be_read(
    fleet: Fleet, users: Users, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the state has gone: from the event, which says so. A later deliberation of the id is not mistaken.
    Only the newest events are looked through, unless all are asked for."""
    async with users.connected("operator") as (operator, _):
        bucket = await operator.jetstream().key_value(subjects.BUCKET)
        await bucket.purge("late")
        at = ["--nats-url", users.url(name)]
        code, out, err = await commands.fleet("result", "late", "--json", *at)
        told = json.loads(out)
        assert (code, told["task_id"], told["status"], told["result"]["status"]) == (1, "late", "TIMEOUT", "TIMEOUT")
        assert "no longer stored" in err
        code, out, err = await commands.fleet("watch", "late", "--json", *at)
        course = [json.loads(line)["subject"] for line in out.splitlines()]
        assert (code, err, course[0], course[-1]) == (1, "", subjects.ACCEPTED, subjects.FAILED)
        code, out, err = await commands.fleet("report", "late", *at)
        assert (code, "There is no verdict" in out, "no longer stored" in err) == (0, True, True)
        assert (await commands.fleet("result", "nobody", *at))[0] == 2
        for command in ("result", "report"):
            code, _, err = await commands.fleet(command, "nobody", *at)
            assert (code, "--older looks through more" in err) == (2, True)
            code, _, err = await commands.fleet(command, "nobody", "--older", *at)
            assert (code, "--older" in err) == (2, False)
        with monkeypatch.context() as patched:
            patched.setattr("fleet.client.session.NEWEST", 1)
            async with session(load({"NATS_URL": users.url(name)})) as client:
                assert not (await client.stored_body("late"))[1]
                assert (await client.stored_body("late", older=True))[1]
        assert (await commands.fleet("result", "late", "--wait", "0.1", *at))[0] == 2  # for one that is to come
        accepted = {"task_id": "late", "accepted_at": "2999-01-01T00:00:00.000Z"}
        async with users.connected("control") as (control, _):
            sent = headers(subjects.ACCEPTED, "late.later", "/fleet/dispatcher", "late", "00-a-b-01")
            await control.jetstream().publish(subjects.ACCEPTED, json.dumps(accepted).encode(), headers=sent)
        assert (await commands.fleet("result", "late", *at))[0] == 2


async def test_a_viewer_changes_nothing(fleet: Fleet, users: Users) -> None:
    """It is told so at once."""
    for words in (["submit", "x"], ["ask", "x", "--id", "mine"], ["cancel", "running"]):
        code, _, err = await commands.fleet(*words, "--nats-url", users.url("viewer"))
        assert (code, "'viewer' may not publish" in err) == (1, True), (words, err)
    code, out, _ = await commands.fleet("list", "--json", "--nats-url", users.url("viewer"))
    assert [json.loads(line)["task_id"] for line in out.splitlines()] == ["gone", "late", "running"]


async def test_watch_tells_a_viewer_the_whole_course(fleet: Fleet, users: Users) -> None:
    """The past, and the end when it comes."""
    watching = asyncio.create_task(commands.fleet("watch", "running", "--json", "--nats-url", users.url("viewer")))
    await fleet.ask(subjects.CANCEL, {"task_id": "running"})
    code, out, err = await watching
    told = [json.loads(line)["subject"] for line in out.splitlines()]
    assert (code, err, told[0], told[-1]) == (1, "", subjects.ACCEPTED, subjects.CANCELLED)


@each_user
async def test_a_report_of_a_whole_deliberation(tmp_path: Path, users: Users, name: str) -> None:
    """To a file, in the format of its name; every text is in it."""
    urls = {"worker_url": users.url("worker"), "client_url": users.url("client")}
    async with whole(users.url("control"), **urls) as running:
        await running.request(task_id="done", task_description="Which cache?", num_agents=2)
        event = await running.inbox.next(subjects.COMPLETED, task_id="done")
        page = tmp_path / "done.html"
        code, _, err = await commands.fleet("report", "done", "--out", str(page), "--nats-url", users.url(name))
        assert (code, str(page) in err) == (0, True)
        assert "Which cache?" in page.read_text()
        for format_ in ("md", "json"):
            code, out, _ = await commands.fleet("report", "done", "--format", format_, "--nats-url", users.url(name))
            assert (code, bool(out)) == (0, True)
        told = json.loads(out)
        assert told["results"] == event["results"]
        assert [len(each["earlier"]) for each in told["results"]] == [1, 1]
        assert told["task"]["constraints"]["rubric"]
        async with session(load({"NATS_URL": users.url(name)})) as client:
            (found,) = await summaries(client)
        assert (found.winner_id, found.task_description) == (event["winner_id"], "Which cache?")
