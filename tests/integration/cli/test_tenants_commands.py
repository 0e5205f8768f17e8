"""The command line in a tenant's account, and what an operator sees of tenants."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from fleet import subjects
from fleet.config import unconfigured
from fleet.exits import Exit
from fleet.messages import encode
from fleet.tenants.limits import Tenant
from fleet.tenants.names import requests_of, subject_of
from tests.support.client import commands
from tests.support.fleets.tenants import A, B, shared
from tests.support.fleets.whole_fleet import whole
from tests.support.nats.permitted import TENANTS, permitted
from tests.support.waiting import WITHIN_S

pytestmark = pytest.mark.usefixtures("nats_binary")


async def test_a_tenant_uses_the_commands_of_every_client(tmp_path: Path) -> None:
    """Ask, submit, result, watch, cancel, report; others say what this account has not."""
    async with shared(tmp_path) as stage:
        url = {"NATS_URL": stage.users.url(A)}
        status, out, err = await commands.fleet("ask", "Design it", "--id", "one", "--agents", "2", "--json", **url)
        assert (status, json.loads(out)["tenant"]) == (Exit.DONE, A), err
        status, out, err = await commands.fleet("submit", "Design it", "--id", "two", **url)
        assert (status, out.strip()) == (Exit.DONE, "two"), err
        status, out, err = await commands.fleet("watch", "two", **url)
        assert (status, "completed" in out) == (Exit.DONE, True), err
        status, out, err = await commands.fleet("watch", "one", "--json", **url)
        assert (status, json.loads(out)["event"]["task_id"]) == (Exit.DONE, "one"), err
        status, out, err = await commands.fleet("result", "two", "--json", **url)
        assert (status, json.loads(out)["status"]) == (Exit.DONE, "COMPLETED"), err
        status, _, err = await commands.fleet("cancel", "one", **url)
        assert (status, "nothing to cancel" in err and "already ended" in err) == (Exit.BAD_REQUEST, True)
        status, _, err = await commands.fleet("report", "one", **url)
        assert (status, err) == (Exit.DONE, "")
        for words in (["list"], ["status"], ["tenants"], ["deadletter", "list"]):
            status, _, err = await commands.fleet(*words, **url)
            assert (status, "this account has no JetStream" in err) == (Exit.UNREACHABLE, True), words
        _, out, _ = await commands.fleet("doctor", **url)
        assert "a tenant's" in out


async def test_watch_says_that_nobody_knows_a_task_yet(tmp_path: Path) -> None:
    """Where there are no streams as where there are, and then tells what happens to it."""
    async with shared(tmp_path) as stage, asyncio.timeout(WITHIN_S):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fleet.cli", "watch", "later", "--nats-url", stage.users.url(A)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=unconfigured(os.environ),
        )
        assert process.stderr is not None
        assert b"nobody knows a task 'later' yet" in await process.stderr.readline()
        await stage[A].request(task_id="later", num_agents=1, rounds=0)
        out, _ = await process.communicate()
        assert (process.returncode, b"completed" in out) == (Exit.DONE, True)


async def test_watch_goes_on_where_a_tenants_text_is_gone(tmp_path: Path) -> None:
    """It shows what is left of the event."""
    left = {"task_id": "one", "content_ref": {"bucket": subjects.TEXTS, "name": f"tasks/{A}.one/x", "bytes": 9}}
    async with shared(tmp_path) as stage, stage.users.connected("control") as (control, _), asyncio.timeout(WITHIN_S):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fleet.cli", "watch", "--json", "--nats-url", stage.users.url(A)),
            stdout=asyncio.subprocess.PIPE,
            env=unconfigured(os.environ),
        )
        assert process.stdout is not None
        try:
            reading = asyncio.create_task(process.stdout.readline())
            while not reading.done():  # until it has subscribed
                await control.publish(subject_of(A, subjects.ACCEPTED), encode(left))
                await asyncio.wait({reading}, timeout=0.1)
            assert json.loads(reading.result())["event"] == left
        finally:
            process.kill()
            await process.wait()


async def test_an_operator_sees_tasks_of_tenants_by_their_keys(tmp_path: Path) -> None:
    async with shared(tmp_path) as stage:
        for tenant in (A, B):
            await stage[tenant].ask("deliberation.ask", {"task_id": "same", "task_description": "x", "num_agents": 1})
        url = {"NATS_URL": stage.users.url("operator")}
        status, out, err = await commands.fleet("list", "--json", **url)
        listed = [json.loads(line) for line in out.splitlines()]
        assert [(each["tenant"], each["task_id"]) for each in listed] == [(A, "same"), (B, "same")], err
        status, out, err = await commands.fleet("result", f"{B}.same", "--json", **url)
        assert (status, json.loads(out)["result"]["tenant"]) == (Exit.DONE, B), err
        status, out, err = await commands.fleet("watch", f"{A}.same", **url)
        assert (status, f"{A}.same" in out, f"{B}.same" in out) == (Exit.DONE, True, False), err
        status, _, err = await commands.fleet("cancel", f"{A}.same", **url)
        assert (status, "nothing to cancel" in err and "already ended" in err) == (Exit.BAD_REQUEST, True)


@pytest.mark.parametrize("user", ["operator", "viewer"])
async def test_tenants_are_listed_with_what_waits_and_runs(tmp_path: Path, user: str) -> None:
    async with shared(tmp_path, limits={A: Tenant(max_waiting=7)}) as stage:
        status, out, err = await commands.fleet("tenants", "--json", "--nats-url", stage.users.url(user))
        listed = [json.loads(line) for line in out.splitlines()]
        assert status == Exit.DONE, err
        assert [(each["tenant"], each["max_waiting"]) for each in listed] == [("default", None), (A, 7), (B, None)]
        assert {(each["waiting"], each["in_flight"], each["used_today"]) for each in listed} == {(0, 0, 0)}
        status, out, _ = await commands.fleet("tenants", "--nats-url", stage.users.url(user))
        assert (status, "0 of 7" in out) == (Exit.DONE, True)


async def test_a_tenant_that_left_the_settings_is_told_by_doctor(tmp_path: Path) -> None:
    """Its stream still takes requests; what it asks of the service is refused."""
    async with permitted(tmp_path / "server", permissions=TENANTS) as users, users.connected(A) as (nc, _):
        names: dict[str, Any] = {"worker_url": users.url("worker"), "client_url": users.url("operator")}
        told = []
        for tenants in ({A: Tenant(), B: Tenant()}, {B: Tenant()}):
            async with whole(users.url("control"), tenants=tenants, **names):
                _, out, _ = await commands.fleet("doctor", "--json", "--nats-url", users.url("operator"))
                told.append([each["found"] for each in json.loads(out) if each["what"] == "tenants"])
        receipt = json.loads((await nc.request("deliberation.requested", b"{}")).data)
        assert receipt["stream"] == requests_of(A)
        assert told == [[], [f"no dispatcher reads requests of {A}"]]
