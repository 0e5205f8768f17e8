"""One deliberation in a real Chromium: all that its result says can be read, and why it is degraded."""

from pathlib import Path
from typing import Any

import pytest

from fleet.config import Workers
from tests.page.stage import log_in, staged
from workers.simulator.server import Faults, SimulatorConfig

pytestmark = pytest.mark.timeout(120)


async def test_all_that_a_result_says_can_be_read(browser: Any, tmp_path: Path) -> None:
    """Ranking, matrix by criterion, reasons, critiques, differences, checks with findings, cost: as in the result."""
    async with staged(tmp_path, SimulatorConfig()) as stage:
        constraints = {"rubric": {"soundness": 2, "cost": 1}, "policy": {"required": ["never-there"]}}
        await stage.client.request(task_id="all", num_agents=3, rounds=1, constraints=constraints)
        result = await stage.client.inbox.next("deliberation.completed", task_id="all")
        page = await browser.new_page()
        await page.goto(f"{stage.url}/#/task/all")
        await log_in(page)
        await page.get_by_role("heading", name="Verdict").wait_for()
        for summary in await page.locator("summary").all():
            await summary.evaluate("each => each.parentElement.open = true")
        said = await page.inner_text("main")
        for each in result["results"]:
            assert each["proposal"]["content"].splitlines()[0] in said
            assert each["checks"]["policy"]["findings"][0] in said
            for review in each["reviews"]:
                for text in (*review["strengths"], *review["weaknesses"], *review["changes"]):
                    assert text in said
                assert all(one["rationale"] in said for one in review["criteria"].values())
        matrix = page.get_by_role("region", name="Scores by reviewer and author").locator("tbody tr")
        first = result["results"][0]
        scores = {each["reviewer_id"]: each for each in first["reviews"] if each["phase"] == "score"}
        for row in await matrix.all_inner_texts():
            if (reviewer := row.split("\t")[0]) in scores:
                cell = row.split("\t")[1]
                assert f"{scores[reviewer]['score']:.1f}" in cell
                assert f"soundness {scores[reviewer]['criteria']['soundness']['score']:.1f}" in cell
        revised = [each for each in result["results"] if each["earlier"]]
        assert await page.get_by_text("What revision 1 changed").count() == len(revised)
        assert f"cost {result['cost']:.4f}" in said
        assert "Round 1:" in said
        await page.close()


async def test_a_degraded_result_says_why(browser: Any, tmp_path: Path) -> None:
    """In the list and on its own page; the words are those of the failed calls."""
    broken = SimulatorConfig(faults=Faults(truncate=0.5))
    async with staged(tmp_path, broken, workers=Workers(max_attempts=1, breaker_failures=1000)) as stage:
        await stage.client.request(task_id="half", num_agents=6, rounds=0)
        result = await stage.client.inbox.next("deliberation.completed", task_id="half")
        assert result["degraded"]
        page = await browser.new_page()
        await page.goto(stage.url)
        await log_in(page)
        await page.get_by_text("failed: the model's text was cut off").wait_for()
        await page.get_by_role("link", name="half").click()
        await page.get_by_role("heading", name="Why it is degraded").wait_for()
        said = await page.locator("section.degraded").inner_text()
        for call in result["failed_agents"]:
            assert call["agent_id"] in said
        for agent in result["missing"]:
            assert agent in said
        await page.close()
