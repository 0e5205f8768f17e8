"""Measures the page in a real Chromium: `python -m tests.page.measure [SECONDS]`. It prints numbers and judges none.

publish → painted: a message of a call carries the time of its publishing; the page's text has it after the next frame.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from math import ceil
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import nats
from playwright.async_api import Page, async_playwright
from psutil import NoSuchProcess

from fleet import subjects
from fleet.clock import now_ms
from fleet.config import load
from fleet.jetstream.topology import declare
from fleet.local.nats_server import EmbeddedNats, WebSocket
from fleet.local.ports import free_port
from fleet.messages import AgentProgress, TotalUsage, encode
from fleet.messages.end_summary import HEADER, EndSummary
from fleet.messages.headers import headers
from fleet.page.server import serving
from fleet.times import rfc3339
from tests.page.processes import browsing, chromium, most_mb, renderers, unshared_mb, used_s

CALLS = 64
A_SECOND = 5
MINUTE_S = 60.0
"""Of each call: the fleet's own default."""
LISTED = 5_000
OPENINGS = 5
AFTER_A_FRAME_S = 0.5
LATE_S = 20.0
"""A page that is opened after ten minutes has read them by then."""
STILL_ACCEPTED = 200
"""So many accepted in the last hours: the page reads no older acceptances."""
TASK = "measured"

# Notes when each marker, the time of its publishing, is on the screen: after the frame in which its text was drawn.
WATCH = """() => {
  window.painted = {};
  new MutationObserver(() => {
    const text = document.querySelector(".words pre")?.textContent ?? "";
    const marker = text.slice(text.lastIndexOf("@") + 1).trim();
    if (!marker || marker in window.painted) return;
    window.painted[marker] = null;
    requestAnimationFrame(() => {
      const after = new MessageChannel();
      after.port1.onmessage = () => (window.painted[marker] = Date.now());
      after.port2.postMessage(0);
    });
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""

# Notes when the newest deliberation, and the number of all, is on the screen, in ms since the page was asked for.
OPENED = """() => {
  window.opened = {};
  const seen = {
    newest_drawn_ms: () => document.querySelector('a[href$="/listed-LAST"]'),
    all_known_ms: () => [...document.querySelectorAll(".facts span")].some((each) => each.textContent === "ALL ended"),
  };
  new MutationObserver(() => {
    for (const name in seen) {
      if (name in window.opened || !seen[name]()) continue;
      window.opened[name] = null;
      requestAnimationFrame(() => {
        const after = new MessageChannel();
        after.port1.onmessage = () => (window.opened[name] = Math.round(performance.now()));
        after.port2.postMessage(0);
      });
    }
  }).observe(document, { subtree: true, childList: true, characterData: true });
}"""


@asynccontextmanager
async def stage(directory: Path) -> AsyncIterator[tuple[str, Any, EmbeddedNats]]:
    """NATS with the fleet's streams and no fleet: what the page shows is published here."""
    async with serving() as server:
        embedded = EmbeddedNats(directory, sync_interval="1s")
        embedded.websocket = WebSocket(free_port(), server.origins)
        server.servers = (embedded.websocket.url,)
        nc = await nats.connect(await embedded.start())
        try:
            await declare(nc.jetstream(), load({}))
            yield server.url, nc, embedded
        finally:
            await nc.close()
            await embedded.stop()


async def answer(nc: Any, body: dict[str, Any] | None = None) -> None:
    """`deliberation.result`; without a body, that the one task is in progress."""
    at = rfc3339(now_ms())
    told = {"task_id": TASK, "status": "IN_PROGRESS", "accepted_at": at, "deadline_at": rfc3339(now_ms() + 3_600_000)}

    async def reply(msg: Any) -> None:
        await msg.respond(json.dumps(body or told).encode())

    await nc.subscribe(subjects.RESULT, cb=reply)


async def say(nc: Any, call: int, text: str, tokens: int) -> None:
    """What one of the CALLS calls has written since the last time."""
    message = AgentProgress(
        task_id=TASK,
        agent_id=f"agent-dev-{call + 1:03}",
        role="DEV",
        phase="propose",
        round=0,
        attempt=1,
        progress_pct=1,
        message="",
        text_delta=text,
        tokens=tokens,
        timestamp=rfc3339(now_ms()),
    )
    sent = headers(subjects.AGENT_PROGRESS, f"{TASK}.p{time.monotonic_ns()}", "/fleet/worker", TASK, "00-a-b-01")
    await nc.publish(subjects.AGENT_PROGRESS, encode(message), headers=sent)


async def write(nc: Any, seconds: float) -> None:
    """CALLS calls write for so long, each A_SECOND times a second, never all at once."""
    begin, number = time.monotonic(), 0
    while time.monotonic() - begin < seconds:
        call = number % CALLS
        text = f" word {number} @{now_ms()}.{number}" if call == 0 else f" word {number} of what a model writes"
        await say(nc, call, text, number // CALLS)
        number += 1
        await asyncio.sleep(max(0.0, begin + number / (CALLS * A_SECOND) - time.monotonic()))


async def fill(nc: Any, listed: int = LISTED, result_bytes: int = 20_000) -> None:
    """So many deliberations that have ended."""
    js = nc.jetstream()
    usage = TotalUsage(prompt_tokens=5_000, completion_tokens=900, calls=12)
    pending = []
    for number in range(listed):
        task_id = f"listed-{number}"
        summary = EndSummary(
            status="COMPLETED",
            duration_ms=5_000,
            usage=usage,
            cost=0.01,
            role="DEV",
            agents=3,
            question="Design a rate limiter for the public REST API",
            winner_id="agent-dev-001",
            score=7.0,
        )
        accepted = {"task_id": task_id, "role": "DEV", "agents": ["a", "b", "c"], "rounds": 1, "correlation": {}}
        times = {"accepted_at": rfc3339(now_ms() - 5_000), "deadline_at": rfc3339(now_ms() + 60_000)}
        for subject, body, more in (
            (subjects.ACCEPTED, json.dumps(accepted | times).encode(), {}),
            (subjects.COMPLETED, b"x" * result_bytes, {HEADER: encode(summary).decode()}),
        ):
            sent = headers(subject, f"{task_id}.{subject}", "/fleet/collector", task_id, "00-a-b-01")
            if subject != subjects.ACCEPTED or number >= listed - STILL_ACCEPTED:
                pending.append(js.publish(subject, body, headers=sent | more))
        if len(pending) >= 200:
            await asyncio.gather(*pending)
            pending.clear()
    await asyncio.gather(*pending)


async def painting(page: Page, nc: Any, seconds: float) -> dict[str, Any]:
    """How long from publishing to painting."""
    await write(nc, 1 / A_SECOND)
    await page.get_by_role("button", name="agent-dev-001").click()
    await page.evaluate(WATCH)
    await write(nc, seconds)
    await asyncio.sleep(1)
    painted = await page.evaluate("window.painted")
    waits = sorted(at - int(marker.partition(".")[0]) for marker, at in painted.items() if at is not None)
    return {"painted": len(waits), "p50_ms": median(waits), "p95_ms": quantiles(waits, n=20)[-1], "max_ms": waits[-1]}


async def burden(url: str, nc: Any, seconds: float, directory: Path) -> dict[str, Any]:
    """What a page takes of processor, and at most of memory, while all write, minute by minute."""
    async with browsing(url, directory / "early") as browser_pid:
        await write(nc, 5)
        if not (processes := {each: used_s(each) for each in renderers(browser_pid)}):
            raise RuntimeError("the browser has no page yet, so nothing would be measured")
        await write(nc, 5)
        page, *others = sorted(processes, key=lambda each: processes[each] - used_s(each))  # the page's is the busiest
        cores, memory = [], []
        for number in range(ceil(seconds / MINUTE_S)):
            before, begin = used_s(page), time.monotonic()
            lasts_s = min(MINUTE_S, seconds - number * MINUTE_S)
            most, _ = await asyncio.gather(most_mb(page, lasts_s), write(nc, lasts_s))
            cores.append(round((used_s(page) - before) / (time.monotonic() - begin), 3))
            memory.append(most)
        own = [round(unshared_mb(each)) for each in others]
    return {"seconds": round(seconds), "cores": cores, "unshared_mb": memory, "chromiums_own_mb": own}


async def lateness(url: str, nc: Any, directory: Path) -> dict[str, Any]:
    """What a page takes at most that is opened now, and reads all that was written."""
    written = (await nc.jetstream().stream_info(subjects.AGENT_PROGRESS_STREAM)).state.messages
    async with browsing(url, directory / "late") as browser_pid:
        end, most = time.monotonic() + LATE_S, 0.0
        while time.monotonic() < end:
            await asyncio.sleep(0.2)
            with suppress(NoSuchProcess):
                most = max(most, *map(unshared_mb, renderers(browser_pid)), 0.0)
    return {"messages": written, "unshared_mb": round(most)}


async def opening(browser: Any, url: str) -> tuple[Page, dict[str, Any]]:
    """Until the newest are drawn, and until all are known. The page notes both: whoever looks from outside sees a text
    up to half a second late."""
    page = await browser.new_page()
    watch = OPENED.replace("LAST", str(LISTED - 1)).replace("ALL", f"{LISTED:,}")
    await page.add_init_script(f"({watch})()")
    await page.goto(url)
    await page.get_by_text(f"{LISTED:,} ended", exact=True).wait_for(timeout=60_000)
    await asyncio.sleep(AFTER_A_FRAME_S)
    return page, {"deliberations": LISTED, **await page.evaluate("window.opened")}


async def reconnecting(page: Page, embedded: EmbeddedNats) -> dict[str, Any]:
    """From the moment at which NATS takes connections again."""
    await embedded.stop()
    await page.get_by_text("NATS is away").wait_for()
    await embedded.start()
    begin = time.monotonic()
    await page.get_by_text("connected", exact=True).wait_for()
    return {"after_start_ms": round(1000 * (time.monotonic() - begin))}


async def main(seconds: float) -> None:
    """Prints one JSON object a measurement."""
    with tempfile.TemporaryDirectory() as directory:
        async with stage(Path(directory)) as (url, nc, embedded), async_playwright() as started:
            await answer(nc)
            task = f"{url}/#/task/{TASK}"
            browser = await started.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
            page = await browser.new_page()
            await page.goto(task)
            await page.get_by_role("heading", name=TASK).wait_for()
            tell("publish to painted", await painting(page, nc, min(seconds, 60)))
            await page.close()
            tell("burden", await burden(task, nc, seconds, Path(directory)))
            tell("late", await lateness(task, nc, Path(directory)))
            await fill(nc)
            for _ in range(OPENINGS):
                await page.close()
                page, facts = await opening(browser, url)
                tell("list", facts)
            tell("reconnect", await reconnecting(page, embedded))
            await browser.close()


def tell(what: str, facts: dict[str, Any]) -> None:
    print(what, json.dumps(facts), flush=True)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0))
