"""One deliberation in a real Chromium: all that its result says can be read, and why it is degraded."""

import asyncio
import json
from pathlib import Path
from typing import Any

import nats
import pytest

from fleet.config import Workers
from fleet.messages import Judge, encode
from tests.page import measure
from tests.page.stage import log_in, staged
from tests.support.council import completed
from tests.support.waiting import WITHIN_S
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


async def test_a_result_from_the_cache_says_whose_it_is(browser: Any, tmp_path: Path) -> None:
    """On its own page, and in the list; no model was called for it."""
    async with staged(tmp_path, SimulatorConfig()) as stage:
        for task_id in ("origin", "copy"):
            await stage.client.request(task_id=task_id, num_agents=2, rounds=0, options={"cache": "use"})
            result = await stage.client.inbox.next("deliberation.completed", task_id=task_id)
        assert result["cached_from"] == "origin"
        page = await browser.new_page()
        await page.goto(f"{stage.url}/#/task/copy")
        await log_in(page)
        await page.get_by_text("This is the result of origin, an equal request: no model was called for it.").wait_for()
        await page.goto(f"{stage.url}/#/")
        await page.get_by_text("the result of origin").wait_for()
        await page.close()


async def test_a_result_outlives_its_state(browser: Any, tmp_path: Path) -> None:
    """The list names it, and its event has everything."""
    async with staged(tmp_path, SimulatorConfig()) as stage:
        await stage.client.request(task_id="gone", num_agents=2, rounds=0)
        result = await stage.client.inbox.next("deliberation.completed", task_id="gone")
        control = await nats.connect(stage.users.url("control"))
        await (await control.jetstream().key_value("deliberations")).purge("gone")
        await control.close()
        async with asyncio.timeout(WITHIN_S):
            while (await stage.client.ask("deliberation.result", b"gone"))[0] != "404":
                pass
        page = await browser.new_page()
        await page.goto(f"{stage.url}/#/task/gone")
        await log_in(page)
        await page.get_by_role("heading", name="Verdict").wait_for()
        said = await page.inner_text("main")
        assert "no task" not in said
        assert result["results"][0]["proposal"]["content"].splitlines()[0] in said
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


async def test_what_judges_gave_is_told_in_words(browser: Any, tmp_path: Path) -> None:
    """In the matrix and beside each proposal: a reward, or log-odds as a chance, and what it comes to."""
    judges = [Judge(name="rm", kind="classify", model="rm"), Judge(name="asked", kind="generative_scoring", model="m")]
    event, _ = completed(judges=judges, num_agents=3, rounds=0)
    async with measure.stage(tmp_path) as (url, nc, _):
        await measure.answer(nc, {"task_id": event.task_id, "status": "COMPLETED", "result": json.loads(encode(event))})
        page = await browser.new_page()
        await page.goto(f"{url}/#/task/{event.task_id}")
        await page.get_by_role("heading", name="Verdict").wait_for()
        matrix = await page.get_by_role("region", name="Scores by reviewer and author").inner_text()
        for result in event.results:
            for review in result.reviews:
                if review.reward is None:
                    continue
                what = "reward" if review.reward.kind == "classify" else "log-odds of Yes"
                gave = f"gave {'a ' if what == 'reward' else ''}{what} of {review.reward.value:.2f}"
                assert gave in matrix
                told = page.locator(
                    "details.proposal p", has_text=f"{review.reviewer_id} ({review.reward.model}) {gave}"
                )
                assert f"comes to {review.score:.1f} points" in await told.first.text_content()
        await page.close()


async def test_a_long_text_that_grows_is_drawn_in_part_and_kept_once(browser: Any, tmp_path: Path) -> None:
    """Who wants to reads its beginning. What was drawn before is left to the browser to forget."""
    async with measure.stage(tmp_path) as (url, nc, _):
        await measure.answer(nc)
        page = await browser.new_page()
        await page.goto(f"{url}/#/task/{measure.TASK}")
        await page.get_by_role("heading", name=measure.TASK).wait_for()
        await measure.write(nc, 1.0)  # a word of each call
        devtools = await page.context.new_cdp_session(page)
        words = page.locator(".words pre")
        sizes = []
        for number in range(60):
            await measure.say(nc, measure.CALLS - 1, f"part {number} ".ljust(2_000, "x"), number)
            await words.get_by_text(f"part {number} ", exact=False).wait_for()
            if number in (0, 59):
                await devtools.send("HeapProfiler.collectGarbage")
                sizes.append((await devtools.send("Runtime.getHeapUsage"))["usedSize"])
        assert sizes[1] - sizes[0] < 1_500_000
        assert "part 40 " not in await words.text_content()
        await page.get_by_role("button", name="characters before").click()
        await words.get_by_text("part 0 ", exact=False).wait_for()
        text = await words.text_content()
        assert [text.count(f"part {number} ") for number in range(60)] == [1] * 60
        await page.close()


async def test_calls_out_of_sight_are_not_drawn_and_are_there(browser: Any, tmp_path: Path) -> None:
    """The browser arranges none of them again while they write. Who searches for one is taken to it."""
    drawn = """() => [...document.querySelectorAll(".call .who")]
        .filter((each) => each.checkVisibility({ contentVisibilityAuto: true })).map((each) => each.textContent)"""
    first, last = "agent-dev-001", f"agent-dev-{measure.CALLS - 1:03}"  # the text of the very last one is shown
    async with measure.stage(tmp_path) as (url, nc, _):
        await measure.answer(nc)
        page = await browser.new_page(viewport={"width": 1280, "height": 400})
        await page.goto(f"{url}/#/task/{measure.TASK}")
        await page.get_by_role("heading", name=measure.TASK).wait_for()
        await measure.write(nc, 1.0)  # a word of each call
        await page.wait_for_function(f"() => (({drawn})()).includes('{first}')")
        await page.wait_for_function(f"() => document.querySelectorAll('.call').length === {measure.CALLS}")
        await page.wait_for_function(f"() => !(({drawn})()).includes('{last}')")
        assert await page.evaluate(f"find('{last}')")
        await page.wait_for_function(f"() => (({drawn})()).includes('{last}')")
        await page.close()
