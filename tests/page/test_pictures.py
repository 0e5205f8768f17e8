"""A newcomer's four questions, answered by the page at every width. `make pictures` makes those of the README here."""

import asyncio
import base64
import os
from pathlib import Path
from typing import Any

import pytest

from fleet.config import Limits, Workers
from tests.page.stage import Stage, log_in, staged
from workers.simulator.config import ConfigChange
from workers.simulator.server import Faults, SimulatorConfig

pytestmark = pytest.mark.timeout(300)

WIDTHS = (320, 768, 1280)
SHOWN_AT = 1280
"""The width of the pictures in the README."""
QUESTIONS = {
    "search": "How do we index ten million documents a day without a second cluster?",
    "ledger": "Design a rate limiter for the public REST API of a payment service",
}

VIEWS = {
    "list": ("", ("2 requests wait, the oldest since", "degraded:")),
    "task": ("task/ledger-4", ("degraded",)),
    "cost": ("cost", ("search", "ledger", "Together")),
    "fleet": ("fleet", ("The model server gpu-2 is sick.",)),
}
"""Picture -> its address, and what it answers."""


async def picture(page: Any, file: Path) -> None:
    """What the window shows, as WebP."""
    session = await page.context.new_cdp_session(page)
    taken = await session.send("Page.captureScreenshot", {"format": "webp", "quality": 60})
    await asyncio.to_thread(file.write_bytes, base64.b64decode(taken["data"]))


async def ask(stage: Stage, task_id: str, team: str, **more: Any) -> None:
    """A request of that team."""
    body = {"task_description": QUESTIONS[team], "num_agents": 3, "correlation": {"team": team}, **more}
    await stage.client.request(task_id=task_id, **body)


async def test_four_questions_at_every_width(browser: Any, tmp_path: Path) -> None:
    """Which model server is sick, why a deliberation was degraded, what it cost by team, what waits and since when."""
    directory = Path(os.environ.get("PICTURES") or tmp_path)
    well = SimulatorConfig(tokens_per_second=120)
    sick = SimulatorConfig(faults=Faults(http_503=1.0))
    workers = Workers(ack_wait_s=3, calls_per_worker=64, breaker_failures=2, breaker_cool_down_s=60)
    async with staged(tmp_path, well, sick, limits=Limits(max_in_flight=2), workers=workers) as stage:
        for number, team in enumerate(("search", "ledger", "search", "ledger")):
            await ask(stage, f"{team}-{number}", team)
        for number, team in enumerate(("search", "ledger", "search", "ledger")):
            await stage.client.inbox.next("deliberation.completed", task_id=f"{team}-{number}")
        stage.servers["gpu-1"].configure(ConfigChange(faults=Faults(hang=0.3)))
        await ask(stage, "ledger-4", "ledger", num_agents=5, constraints={"timeout_seconds": 6})
        await stage.client.inbox.next("deliberation.completed", task_id="ledger-4", degraded=True)
        stage.servers["gpu-1"].configure(ConfigChange(faults=Faults(), tokens_per_second=3))
        for number, team in enumerate(("search", "ledger", "search", "ledger"), 5):
            await ask(stage, f"{team}-{number}", team, constraints={"timeout_seconds": 600})
        for width in WIDTHS:
            page = await browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
            await page.goto(stage.url)
            await log_in(page)
            await page.get_by_role("region", name="Requests that wait").wait_for()
            await page.get_by_text("Propose").first.wait_for()
            for name, (address, answers) in VIEWS.items():
                await page.goto(f"{stage.url}/#/{address}")
                if name == "cost":
                    await page.get_by_label("Period").select_option("all")
                for answer in answers:
                    await page.get_by_text(answer).first.wait_for()
                assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, width)
                await picture(page, (directory if width == SHOWN_AT else tmp_path) / f"{name}-{width}.webp")
            await page.close()
