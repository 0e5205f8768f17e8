"""The page in a real Chromium: true to the streams, readable at every width, and nothing that a model wrote escapes."""

import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fleet.cli.report.words import reason
from fleet.page.files import STATIC
from tests.e2e.conftest import start, stop
from tests.e2e.stub import StubModel
from tests.page.conftest import need
from tests.page.stage import log_in, staged
from workers.simulator.server import SimulatorConfig

pytestmark = pytest.mark.timeout(300)

HOSTILE = (
    "<img src=x onerror=\"document.title='run'\"><script>alert(1)</script> \x1b[2J \u202eabc "
    "</pre><a href=javascript:alert(1)>x</a>"
)
WIDTHS = (320, 768, 1280)
HEADERS = """
import assert from "node:assert";
import { headers } from "@nats-io/nats-core";
import { MsgImpl } from "@nats-io/nats-core/internal";
import { headersOf } from "./src/nats.js";

const summary = '{"question": "wie: für wen?"}';
const written = { "Task-Id": "t-1", "Task-Summary": summary, "ce-time": "2026-11-30T13:00:00.000Z", Empty: "" };
const made = headers();
for (const [name, value] of Object.entries(written)) made.append(name, value);
const block = made.encode();
const whole = Buffer.concat([block, Buffer.from("{}")]);
const msg = new MsgImpl({ subject: block, hdr: block.length, size: whole.length }, whole);
const short = headersOf({ msg, get headers() { throw new Error("the long way"); } });
const long = headersOf({ headers: made });
for (const name of [...Object.keys(written), "Task", "Absent"]) {
  assert.equal(short(name), written[name] ?? "");
  assert.equal(long(name), short(name));
}
"""
KEPT = """
import assert from "node:assert";
import { PIECE, Task } from "./src/task.js";

globalThis.requestAnimationFrame = () => {};
const told = {};
const nothing = () => () => {};
const link = {
  reconnected: nothing,
  hear: nothing,
  follow: (stream, subject, tell) => ((told[subject] = tell), nothing),
  result: async () => ({ status: "IN_PROGRESS" }),
  stored: async () => null,
  whole: async (body) => body,
};
const task = new Task(link, "t-1");
while (!told["agent.response.completed"]) await new Promise(setImmediate);

const messages = [];
function tell(kind, agent, more) {
  const call = { task_id: "t-1", agent_id: `agent-${agent}`, phase: "propose", round: 0, attempt: 1 };
  const said = { ...call, timestamp: "2026-11-30T13:00:00.000Z", ...more };
  const msg = { headers: new Map([["Task-Id", said.task_id]]), json: () => said };
  messages.push(new WeakRef(msg), new WeakRef(said));
  told[`agent.response.${kind}`](msg);
}
const write = (times, more) => {
  for (let number = 0; number < times; number += 1)
    for (let agent = 0; agent < 64; agent += 1)
      tell("progress", agent, { text_delta: `word ${number} `, tokens: number, ...more });
};
// All that can be reached from the calls, without the pieces of their texts.
function others(value) {
  if (typeof value !== "object" || value === null) return 1;
  const entries = value instanceof Map ? [...value] : Object.entries(value);
  return entries.reduce((sum, [name, each]) => sum + (name === "pieces" ? 0 : others(each)), 1);
}
const texts = () => [...task.calls.values()].map(({ pieces }) => pieces.join(""));
const words = (times) => Array.from({ length: times }, (_, number) => `word ${number} `).join("");

write(10);
const atFirst = others(task.calls);
write(990, { attempt: 1 });
write(5, { task_id: "t-2", agent_id: "another" });
assert.equal(task.calls.size, 64);
assert.equal(others(task.calls), atFirst);
assert.ok(texts().every((text) => text === words(10) + words(990)));
for (const { pieces } of task.calls.values()) assert.ok(pieces.length <= Math.ceil(pieces.join("").length / PIECE));
write(3, { attempt: 2 });
write(3, { attempt: 1 });
assert.ok(texts().every((text) => text === words(3)));
tell("completed", 0, { attempt: 2, duration_ms: 1, proposal: { content: "whole" } });
await new Promise(setImmediate);
assert.deepEqual(task.calls.values().next().value.pieces, ["whole"]);
await new Promise(setImmediate);
gc();
assert.equal(messages.filter((each) => each.deref()).length, 0);
task.close();
"""


@asynccontextmanager
async def shown(browser: Any, url: str, **more: Any) -> AsyncIterator[Any]:
    """A page without an error: in the end nothing was reported, and nothing was loaded from elsewhere."""
    page = await browser.new_page(**more)
    said: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}"))
    page.on("request", lambda request: asked.append(request.url))
    await page.goto(url)
    yield page
    await page.close()
    assert said == []
    origin = "/".join(url.split("/")[:3])
    assert [each for each in asked if not each.startswith((origin, "data:"))] == []


async def test_a_council_at_work_is_seen_from_the_beginning(browser: Any, tmp_path: Path) -> None:
    """Who comes late reads what was written before. List, texts, result and fleet are as the fleet says."""
    async with StubModel() as stub:
        up = await start(tmp_path / "data", VLLM_URL=stub.url)
        try:
            stub.gate.clear()
            stub.words = "A token bucket for each key."
            await up.request(task_id="seen", num_agents=2, rounds=0, options={"selection": "checks"})
            await stub.until_open(2)
            async with shown(browser, up.facts["page_url"]) as page:
                await page.get_by_role("link", name="seen").wait_for()
                assert "at work" in await page.inner_text("main")
                await page.get_by_role("link", name="seen").click()
                await page.get_by_text("0 of 2 answered").wait_for()
                text = page.locator(".words pre")
                await text.wait_for()
                assert (await text.inner_text()).startswith("A to")  # what had been written before the page was there
                stub.gate.set()
                await page.get_by_role("heading", name="Verdict").wait_for()
                await page.get_by_text("2 of 2 answered").wait_for()
                assert stub.words in await page.inner_text("details.proposal")
                result = await up.result("seen")
                rows = await page.locator("section:has(h2:text-is('Ranking')) tbody tr").all_inner_texts()
                assert [row.split("\t")[1] for row in rows] == [each["agent_id"] for each in result["results"]]
                await page.get_by_role("link", name="The fleet").click()
                await page.get_by_text("Instances that answer").wait_for()
                await page.locator("table[aria-label], [aria-label='Workers'] tbody tr").first.wait_for()
        finally:
            await stop(up)


async def test_what_a_model_wrote_stays_text(browser: Any, tmp_path: Path) -> None:
    """On every view, at every width, light and dark; by axe's rules for WCAG AA; wide things scroll by themselves."""
    axe = pytest.importorskip("axe_playwright_python.async_playwright", reason="make test-page installs it").Axe()
    async with StubModel() as stub, staged(tmp_path, url=stub.url) as stage:
        stub.words = HOSTILE
        await stage.client.request(task_id="bad", task_description=HOSTILE, num_agents=99)
        await stage.client.request(task_id="hostile", task_description=HOSTILE, num_agents=3, rounds=1)
        await stage.client.inbox.next("deliberation.completed", task_id="hostile")
        for scheme in ("light", "dark"):
            async with shown(browser, f"{stage.url}/#/task/hostile", color_scheme=scheme) as page:
                await log_in(page)
                await page.get_by_role("heading", name="Verdict").wait_for()
                for summary in await page.locator("summary").all():
                    await summary.evaluate("each => each.parentElement.open = true")
                words = await page.inner_text("main")
                assert "<img src=x onerror=" in words
                assert "\\x1b[2J" in words
                assert "‹U+202E›abc" in words
                assert await page.locator("main img, main script, main a[href^=javascript]").count() == 0
                assert await page.title() == "hostile – Fleet"
                for place in ("task/hostile", "", "cost", "fleet", "letters"):
                    await page.goto(f"{stage.url}/#/{place}")
                    await page.get_by_role("heading", level=1).wait_for()
                    for width in WIDTHS:
                        await page.set_viewport_size({"width": width, "height": 900})
                        assert await page.evaluate("document.documentElement.scrollWidth") <= width
                    found = await axe.run(page)
                    assert found.violations_count == 0, found.generate_report()


async def test_nats_says_what_a_viewer_may(browser: Any, tmp_path: Path) -> None:
    """A wrong password is refused, a viewer sees, and what it may not do is refused by NATS, and said."""
    async with staged(tmp_path, SimulatorConfig(tokens_per_second=2, answer_tokens=1000)) as stage:
        await stage.client.request(task_id="slow", num_agents=2, rounds=0)
        await stage.client.inbox.next("deliberation.accepted")
        page = await browser.new_page()
        await page.goto(f"{stage.url}/#/task/slow")
        await page.get_by_label("User").fill("viewer")
        await page.get_by_label("Password").fill("wrong")
        await page.get_by_role("button", name="Connect").click()
        await page.get_by_text("Authorization").wait_for()
        await log_in(page)
        await page.get_by_text("at work").first.wait_for()
        await page.get_by_role("button", name="Cancel").click()
        await page.get_by_text("NATS does not allow this user to use deliberation.cancel").wait_for()
        assert (await stage.client.ask("deliberation.result", b"slow"))[1]["status"] == "IN_PROGRESS"
        await page.reload()
        await log_in(page, "client")
        await page.get_by_role("button", name="Cancel").click()
        await page.get_by_text("No result").wait_for()
        assert (await stage.client.ask("deliberation.result", b"slow"))[1]["status"] == "CANCELLED"
        await page.close()


def run(folder: Path, *command: str) -> None:
    done = subprocess.run([need(command[0]), *command[1:]], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources, with what the lock file names."""
    folder = tmp_path_factory.mktemp("page") / "source"
    shutil.copytree(STATIC.parent / "source", folder, ignore=shutil.ignore_patterns("node_modules"))
    run(folder, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
    return folder


def test_the_script_is_current(source: Path) -> None:
    """Built anew from the lock file it is the same to the byte."""
    run(source, "node", "build.mjs", "page.js")
    assert (source / "page.js").read_bytes() == (STATIC / "page.js").read_bytes(), "run `make page`"


def test_the_short_way_to_headers_reads_what_the_long_one_reads(source: Path) -> None:
    """It takes nats.js's bytes from where this version of it has them, and never its objects."""
    (source / "headers.mjs").write_text(HEADERS)
    run(source, "node", "headers.mjs")


def test_of_two_messages_of_one_millisecond_the_first_is_known(source: Path) -> None:
    """NATS leaves out zeros at the end of a time."""
    (source / "moments.mjs").write_text(
        'import assert from "node:assert";\n'
        'import { Link } from "./src/nats.js";\n'
        "const at = async (message) => (await Link.prototype.stored.call({ api: async () => ({ message }) })).at;\n"
        'const times = ["13:00:00Z", "13:00:00.1234Z", "13:00:00.123456Z", "13:00:00.124Z", "13:00:01.000000009Z"];\n'
        "const moments = [];\n"
        "for (const each of times) moments.push(await at({ time: `2026-11-30T${each}`, hdrs: '', data: '' }));\n"
        "assert.ok(moments.every((each, number) => number === 0 || each > moments[number - 1]), String(moments));\n"
        'assert.equal(Math.floor(moments[2]), Date.parse("2026-11-30T13:00:00.123Z"));\n'
    )
    run(source, "node", "moments.mjs")


def test_of_what_calls_write_their_text_is_kept_and_no_message(source: Path) -> None:
    """Once, in few pieces, of the last attempt, and of this deliberation alone; an answer takes its place."""
    (source / "kept.mjs").write_text(KEPT)
    run(source, "node", "--expose-gc", "kept.mjs")


def test_reasons_are_read_as_the_reports_read_them(source: Path) -> None:
    """Without the escapes of their Markdown; what is code stays as it is."""
    texts = (r"`a_b` and a\_b, 3 \* 4", r"`a\*b\_` and ``c\*`d``", r"\\_ C:\new \(x\) ` \_", r"``a\_`", "plain")
    (source / "reasons.mjs").write_text(
        'import { meant } from "./src/visible.js";\n'
        "for (const [text, read] of JSON.parse(process.argv[2]))\n"
        "  if (meant(text) !== read) throw new Error(`${text}: ${meant(text)}`);\n"
    )
    run(source, "node", "reasons.mjs", json.dumps([(text, reason(text)) for text in texts]))
