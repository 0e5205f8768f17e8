"""The fleet's own views in a real Chromium: which model server is sick and why, and dead letters."""

from pathlib import Path
from typing import Any

import pytest

from fleet.config import Workers
from tests.page.stage import log_in, staged
from workers.simulator.server import Faults, SimulatorConfig

REFUSED = "NATS does not allow this user to use"
DOES = {"Replay": "deadletter.replayed.1", "Drop": "$JS.API.STREAM.MSG.DELETE.DEAD_LETTERS"}

pytestmark = pytest.mark.timeout(120)


async def test_a_sick_model_server_is_named_with_the_reason(browser: Any, tmp_path: Path) -> None:
    """One of two answers 503: the page says which, and since its worker gives it no calls, that, too."""
    workers = Workers(ack_wait_s=3, calls_per_worker=32, breaker_failures=1, breaker_cool_down_s=30)
    sick = SimulatorConfig(faults=Faults(http_503=1.0))
    async with staged(tmp_path, SimulatorConfig(), sick, workers=workers) as stage:
        await stage.client.request(task_id="one", num_agents=8, rounds=0)
        await stage.client.inbox.next("deliberation.completed", task_id="one")
        page = await browser.new_page()
        await page.goto(f"{stage.url}/#/fleet")
        await log_in(page)
        row = page.get_by_role("region", name="Model servers").locator("tr", has_text="gpu-2")
        await row.get_by_text("sick").wait_for()
        said = await row.inner_text()
        assert "its breaker is open" in said
        assert "the model server failed (5xx). “HTTP 503" in said
        assert "The model server gpu-2 is sick." in await page.inner_text("main")
        assert "The model server gpu-1" not in await page.inner_text("main")
        await page.close()


async def test_dead_letters_are_read_replayed_once_and_dropped(browser: Any, tmp_path: Path) -> None:
    """By an operator; a viewer reads them, and is refused the rest by NATS; a client does not even read."""
    async with staged(tmp_path, SimulatorConfig()) as stage:
        await stage.client.nc.publish("deliberation.requested", b"{no json <b>")
        await stage.client.inbox.next("deliberation.rejected")
        page = await browser.new_page()
        for user in ("client", "viewer", "operator"):
            await page.goto(f"{stage.url}/#/letters")
            await page.reload()
            await log_in(page, user)
            if user == "client":
                await page.get_by_text(f"{REFUSED} $JS.API.STREAM.MSG.GET.DEAD_LETTERS").wait_for()
                continue
            await page.locator("details.letter > summary").click()
            assert await page.locator("details.letter > pre").inner_text() == "{no json <b>"
            if user == "viewer":
                for button, subject in DOES.items():
                    await page.get_by_role("button", name=button).click()
                    await page.get_by_text(f"Not done: {REFUSED} {subject}").wait_for()
        await page.get_by_role("button", name="Replay").click()
        await page.get_by_text("Replayed.").wait_for()
        await page.get_by_text("2 dead letters").wait_for()  # it cannot be read any better than before
        first = page.locator("details.letter", has_text="replayed")
        assert await first.get_by_role("button", name="Replay").count() == 0
        await first.get_by_role("button", name="Drop").click()
        await page.get_by_text("1 dead letter,").wait_for()
        await page.close()
