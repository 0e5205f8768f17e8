"""An operator who upgrades with the permissions of an older version: the lacking lines are named, and their file."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fleet import subjects
from fleet.config import load
from fleet.jetstream import topology
from fleet.jetstream.declaring.permissions import FILE
from fleet.local.testbed import in_process
from tests.support.client import commands
from tests.support.nats.permitted import PERMISSIONS, Users, permitted
from tests.support.waiting import until
from workers.calls.worker import AgentWorker

PURGE, NEXT = subjects.purge_of(subjects.STATES), f"$JS.API.CONSUMER.MSG.NEXT.{subjects.STATES}.*"
LACKING = [f"publish {NEXT}", f"publish {PURGE}"]


@pytest.fixture
async def old(tmp_path: Path, nats_binary: object) -> AsyncIterator[Users]:
    """A server whose file has neither of the two lines, for whomever."""
    lines = PERMISSIONS.read_text().splitlines(keepends=True)
    file = tmp_path / "permissions.conf"
    file.write_text("".join(line for line in lines if PURGE not in line and NEXT not in line))
    async with permitted(tmp_path / "nats", permissions=file) as users:
        yield users


async def test_a_component_says_at_its_start_what_it_may_not(old: Users) -> None:
    """Not one timeout after the other. So does a worker, of what it needs itself."""
    with capture_logs() as logs:
        async with in_process(load({"NATS_URL": old.url("control")})):
            pass
    told = [line for line in logs if line["event"] == "permissions.lacking"]
    assert [(line["user"], line["lacking"], line["see"], line["log_level"]) for line in told] == [
        ("control", LACKING, FILE, "error")
    ] * len(told)
    assert told
    with capture_logs() as logs:
        settings = load({"NATS_URL": old.url("control"), "VLLM_URL": "http://127.0.0.1:9"})
        async with AgentWorker.open(settings, "worker"):
            await until(lambda: any(line["event"] == "permissions.lacking" for line in logs), within_s=20)
    (line,) = [line for line in logs if line["event"] == "permissions.lacking"]
    assert line["user"] == "worker"
    assert f"publish $JS.API.CONSUMER.MSG.NEXT.{subjects.AGENT_REQUESTS}.{subjects.WORKERS}" in line["lacking"]
    assert not set(LACKING) & set(line["lacking"])


async def test_the_doctor_names_them_too(old: Users, tmp_path: Path) -> None:
    """Run as the user of the component."""
    async with old.connected("control") as (nc, _):
        await topology.declare(nc.jetstream(), load({}))
    words = ("doctor", "--json", "--nats-url", old.url("control"), "--data-dir", str(tmp_path))
    _, out, _ = await commands.fleet(*words)
    (finding,) = [each for each in json.loads(out) if each["what"] == "permissions"]
    assert finding["verdict"] == "warn"
    assert finding["found"] == f"this user lacks, of what `control` needs: {', '.join(LACKING)}"
    assert FILE in finding["todo"]
