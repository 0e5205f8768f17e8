"""`fleet status`."""

import asyncio
import json

from fleet import subjects
from tests.support.client import commands
from tests.support.fleets.control_plane import running
from tests.support.waiting import WITHIN_S

AT_WORK = {"dispatcher", "collector", "controller", "workers"}


async def test_status_names_what_runs(nats_url: str) -> None:
    """Until it has ended; a part that is away is told by the exit status."""
    async with running(nats_url, lambda call: None) as fleet:
        task_id = await fleet.request(task_id="at-work")
        await fleet.inbox.next(subjects.ACCEPTED, task_id=task_id)
        code, out, err = await commands.fleet("status", "--json", "--nats-url", nats_url)
        state = json.loads(out)
        assert (code, err, state["running"], state["requests"]) == (0, "", ["at-work"], 0)
        assert {each["name"] for each in state["consumers"] if each["served"]} == AT_WORK
        await fleet.ask(subjects.CANCEL, {"task_id": task_id})
        await fleet.inbox.next(subjects.CANCELLED, task_id=task_id)
        async with asyncio.timeout(WITHIN_S):
            while "at-work" in out:  # its deadline is taken away after the event
                _, out, _ = await commands.fleet("status", "--nats-url", nats_url)
    code, out, _ = await commands.fleet("status", "--nats-url", nats_url)
    assert (code, "not at work" in out) == (1, True)


async def test_where_no_fleet_is_it_says_so(nats_url: str) -> None:
    """In a sentence."""
    code, _, err = await commands.fleet("status", "--nats-url", nats_url)
    assert (code, "no fleet does" in err) == (3, True)


async def test_what_nobody_counts_is_no_zero(nats_url: str) -> None:
    """Without tenants no tokens are counted."""
    async with running(nats_url, lambda call: None):
        _, out, err = await commands.fleet("tenants", "--json", "--nats-url", nats_url)
        assert (json.loads(out)["used_today"], err) == (None, "")
        code, out, _ = await commands.fleet("tenants", "--nats-url", nats_url)
        assert (code, out.split()[-1]) == (0, "–")
