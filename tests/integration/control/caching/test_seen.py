"""How answers from the cache show: in counters, to who follows, on the command line, and in the room that they take."""

import asyncio
import json
from typing import Any

import pytest

from fleet import subjects
from fleet.client import connect
from fleet.config import Limits
from fleet.messages import DeliberationCompleted
from tests.integration.control.caching.test_answers import Council, ask, question
from tests.integration.control.caching.test_stampede import Silent
from tests.integration.control.telemetry.test_true_numbers import counted_fleet
from tests.support.client import commands
from tests.support.client.following import Follower, steps
from tests.support.fleets.control_plane import running
from tests.support.waiting import until
from workers.simulator.server import SimulatorConfig

pytestmark = pytest.mark.usefixtures("nats_binary")


async def test_tokens_are_counted_once_and_each_outcome_is(nats_url: str) -> None:
    """Over all processes; what was used equals the results."""
    async with counted_fleet(nats_url, SimulatorConfig()) as (fleet, lives):
        replies = [await ask(fleet, "first"), await ask(fleet, "second"), await ask(fleet, "anew", "refresh")]
        other: dict[str, Any] = {"task_description": "Design that"}
        replies += await asyncio.gather(*(ask(fleet, f"t-{number}", **other) for number in range(4)))
        outcomes = {"hit": 1, "refresh": 1, "miss": 2, "shared": 3}
        for outcome, count in outcomes.items():
            counted = {"outcome": outcome, "tenant": "default"}
            await until(lambda c=counted, n=count: lives.sum("fleet_cache_total", **c) == n)
        for kind, field in (("prompt", "prompt_tokens"), ("completion", "completion_tokens")):
            told = sum(reply["usage"][field] for reply in replies)
            assert lives.sum("fleet_tokens_total", kind=kind) == told > 0
        assert lives.sum("fleet_deliberations_total", status="COMPLETED") == len(replies)
        assert lives.sum("fleet_overhead_seconds_count") == 3


async def test_an_answer_that_is_there_needs_no_room(nats_url: str) -> None:
    """While the fleet has as much in progress as it may have, other questions wait."""
    council = Council()
    async with running(nats_url, council, Limits(max_in_flight=2)) as fleet:
        await ask(fleet, "first")
    async with running(nats_url, lambda call: None, Limits(max_in_flight=2)) as fleet:
        for number in range(2):
            await fleet.request(task_id=f"long-{number}", task_description="Think long")
            await fleet.inbox.next(subjects.ACCEPTED, task_id=f"long-{number}")
        await fleet.request(task_id="waits", task_description="Think, too")
        assert (await ask(fleet, "second"))["cached_from"] == "first"
        assert fleet.inbox.of("waits") == []


async def test_whoever_follows_sees_the_one_that_waits_and_its_end(nats_url: str) -> None:
    """No call is expected of it."""
    council = Silent()
    async with running(nats_url, council) as fleet:
        await fleet.request(**question("first"))
        await until(lambda: council.calls)
        follower = await Follower(fleet).call(question("second"))
        status = await follower.next()
        assert status is not None
        await fleet.inbox.next(subjects.ACCEPTED, task_id="second")
        code, looked_up = await fleet.ask(subjects.RESULT, {"task_id": "second"})
        assert (code, looked_up["status"]) == (None, "IN_PROGRESS")
        assert looked_up["progress"] == {"phase": "propose", "round": 0, "done": 0, "expected": 0}
        await fleet.ask(subjects.CANCEL, {"task_id": "first"})
        replies = await follower.rest()
        assert (replies[-1]["status"], replies[-1]["cached_from"]) == ("COMPLETED", None)
        assert ("propose", 0, 2, 2) in {step[:4] for step in steps(replies)}


async def test_the_command_line_and_the_client_use_it(nats_url: str) -> None:
    """What is printed says whose result it is, and that nothing was used; a mode that there is not is a bad request."""
    async with running(nats_url, Council()), connect(nats_url) as client:
        await client.ask("Design it", task_id="first", agents=2, cache="use")
        again = await client.ask("Design it", agents=2, cache="use", options={"early_stop": True})
        assert isinstance(again, DeliberationCompleted)
        assert again.cached_from == "first"
        asked = ("ask", "Design it", "--agents", "2", "--nats-url", nats_url)
        status, out, _ = await commands.fleet(*asked, "--cache", "use")
        assert status == 0
        assert "this is the result of first, an equal request: no model was called" in out
        assert "0 model calls · 0 tokens" in out
        status, out, _ = await commands.fleet(*asked, "--cache", "refresh", "--json")
        refreshed = json.loads(out)
        assert (status, refreshed["cached_from"]) == (0, None)
        status, out, _ = await commands.fleet("report", again.task_id, "--nats-url", nats_url)
        assert "the same question was answered before, as first" in out
        status, out, _ = await commands.fleet("list", "--json", "--nats-url", nats_url)
        assert {each["cached_from"] for each in map(json.loads, out.splitlines())} == {None, "first"}
        status, _, err = await commands.fleet(*asked, "--cache", "always")
        assert (status, "$.options.cache" in err) == (2, True)
