"""The list in a real Chromium: what waits and since when, what is at work, what has ended, and what it cost by team."""

from pathlib import Path
from typing import Any

import pytest

from fleet import subjects
from fleet.config import Limits
from fleet.local.nats_server import WebSocket, for_browsers
from fleet.local.ports import free_port
from fleet.messages.headers import headers
from fleet.page.server import serving
from fleet.tenants.names import DEFAULT_TENANT
from tests.page.measure import fill, stage
from tests.page.stage import log_in, staged
from tests.support.fleets.tenants import A, B, shared
from workers.simulator.server import SimulatorConfig

pytestmark = pytest.mark.timeout(120)


async def test_what_waits_runs_and_has_ended(browser: Any, tmp_path: Path) -> None:
    """One place: one deliberation is at work, two wait, and NATS tells a client less of them than a viewer."""
    slow = SimulatorConfig(tokens_per_second=2, answer_tokens=1000)
    async with staged(tmp_path, slow, limits=Limits(max_in_flight=1)) as stage:
        await stage.client.request(task_id="first", num_agents=2, rounds=0)
        await stage.client.inbox.next("deliberation.accepted", task_id="first")
        for task_id in ("second", "third"):
            await stage.client.request(task_id=task_id, task_description=f"The {task_id} question")
        page = await browser.new_page()
        await page.goto(stage.url)
        await log_in(page)
        rows = page.get_by_role("region", name="Requests that wait").locator("tbody tr")
        await rows.nth(1).wait_for()
        waiting = await rows.all_inner_texts()
        assert ["The second question" in waiting[0], "The third question" in waiting[1]] == [True, True]
        assert "2 requests wait, the oldest since" in await page.inner_text("main")
        running = page.get_by_role("region", name="Deliberations at work").locator("tbody tr")
        await running.get_by_text("Propose").wait_for()
        await stage.client.ask("deliberation.cancel", {"task_id": "first"})
        await (
            page.get_by_role("region", name="Deliberations that ended").get_by_text("cancelled", exact=True).wait_for()
        )
        await running.get_by_text("The second question").wait_for()
        await page.reload()
        await log_in(page, "client")
        await page.get_by_text("NATS does not allow this user to use $JS.API.STREAM.MSG.GET").wait_for()
        await page.get_by_text("1 request waits, the oldest since").wait_for()
        await page.close()


async def test_what_waits_and_runs_of_every_tenant(browser: Any, tmp_path: Path) -> None:
    """Two of one id are told apart; of each tenant the list says how many wait and since when, and leads to each."""
    async with serving() as server:
        websocket = WebSocket(free_port(), server.origins)
        server.servers = (websocket.url,)
        room = {"more": for_browsers(websocket), "room": Limits(max_in_flight=1)}
        async with shared(tmp_path, SimulatorConfig(tokens_per_second=2, answer_tokens=1000), **room) as stage:
            await stage[A].request(task_id="first", num_agents=2, rounds=0)
            await stage[A].inbox.next("deliberation.accepted", task_id="first")
            for tenant, task_id in ((A, "second"), (B, "second"), (A, "third"), (DEFAULT_TENANT, "first")):
                await stage[tenant].request(task_id=task_id, task_description=f"{task_id} of {tenant}")
            page = await browser.new_page()
            await page.goto(server.url)
            await log_in(page)
            await page.get_by_text("4 requests wait, the oldest since").wait_for()
            rows = page.get_by_role("region", name="Requests that wait").locator("tbody tr")
            shown = [row.split("\t")[0].splitlines() for row in await rows.all_inner_texts()]
            assert [(row[0], row[1], row[2].split(" · ")[1:]) for row in shown] == [
                ("second", "second of team-a", [A]),
                ("second", "second of team-b", [B]),
                ("third", "third of team-a", [A]),
                ("first", "first of default", []),
            ]
            tenants = page.get_by_role("region", name="Tenants that wait").locator("tbody tr")
            counts = [row.split("\t")[:2] for row in await tenants.all_inner_texts()]
            assert counts == [[DEFAULT_TENANT, "1"], [A, "2"], [B, "1"]]
            running = page.get_by_role("region", name="Deliberations at work").locator("tbody tr")
            await running.get_by_text("Propose").wait_for()
            assert "team-a" in await running.inner_text()
            await rows.nth(1).get_by_role("link").click()
            await page.get_by_role("heading", name="team-b.second").wait_for()
            await page.get_by_text("waiting for room").wait_for()
            assert "second of team-b" in await page.inner_text("main")
            await stage[A].ask("deliberation.cancel", {"task_id": "first"})
            await page.goto(f"{server.url}/#/task/team-a.first")
            await page.get_by_text("cancelled", exact=True).wait_for()
            await page.goto(f"{server.url}/#/")
            await page.get_by_text("3 requests wait, the oldest since").wait_for()
            ended = page.get_by_role("region", name="Deliberations that ended").locator("tbody tr")
            assert ["cancelled" in row and A in row for row in await ended.all_inner_texts()] == [True]
            await page.close()


async def test_cost_by_team_and_why_it_is_degraded(browser: Any, tmp_path: Path) -> None:
    """The sums are those of the results; a request that was rejected costs nothing and says why."""
    async with staged(tmp_path, SimulatorConfig()) as stage:
        for number, team in enumerate(("search", "search", "ledger")):
            await stage.client.request(task_id=f"t{number}", num_agents=2, correlation={"team": team})
        await stage.client.request(task_id="bad", num_agents=99)
        results = [await stage.client.inbox.next("deliberation.completed", task_id=f"t{n}") for n in range(3)]
        costs = [each["cost"] for each in results]
        page = await browser.new_page()
        await page.goto(stage.url)
        await log_in(page)
        await page.get_by_text("$.num_agents").wait_for()
        await page.get_by_role("link", name="Cost").click()
        assert await page.get_by_label("Period").input_value() == "day"  # what has just ended is there at any hour
        rows = page.get_by_role("region", name="Cost").locator("tbody tr")
        await rows.nth(2).wait_for()
        shown = {row.split("\t")[0]: row.split("\t")[1] for row in await rows.all_inner_texts()}
        sums = {"search": costs[0] + costs[1], "ledger": costs[2], "Together": sum(costs)}
        assert shown == {name: f"{cost:.4f}" for name, cost in sums.items()}
        await page.get_by_label("Sum by").select_option("tenant")
        await page.get_by_role("rowheader", name="default").wait_for()
        await page.close()


async def test_older_ones_are_read_after_the_newest(browser: Any, tmp_path: Path) -> None:
    """More than are read at first; of an id that was used twice the later deliberation counts."""
    async with stage(tmp_path) as (url, nc, _):
        old = headers(subjects.FAILED, "old", "/fleet/collector", "listed-899", "00-a-b-01")
        await nc.jetstream().publish(subjects.FAILED, b"{}", headers=old)
        await fill(nc, listed=900, result_bytes=10)
        page = await browser.new_page()
        await page.goto(url)
        await page.get_by_text("900 ended", exact=True).wait_for()
        assert "Together they cost 9.00" in await page.inner_text("main")
        await page.get_by_label("Search").fill("listed-899")
        rows = page.get_by_role("region", name="Deliberations that ended").locator("tbody tr")
        (row,) = await rows.all_inner_texts()
        assert "completed" in row
        await page.close()
