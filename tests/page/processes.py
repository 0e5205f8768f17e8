"""A real Chromium from outside: which of its processes is the page's, and what that takes."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from tests.page.conftest import need


def chromium() -> str:
    """Where it is."""
    return need("chromium", "chromium-browser", "google-chrome")


def renderers(browser_pid: int) -> list[psutil.Process]:
    """Chromium's processes that draw something: the page, Chromium's own menus, and one that waits for a next page."""
    children = psutil.Process(browser_pid).children(recursive=True)
    return [each for each in children if "--type=renderer" in each.cmdline()]


def used_s(process: psutil.Process) -> float:
    """Of processor time."""
    return float(sum(process.cpu_times()[:2]))


def unshared_mb(process: psutil.Process) -> float:
    """What would be free if it ended; also what the browser has not collected yet."""
    return float(process.memory_full_info().uss / 1e6)


async def most_mb(process: psutil.Process, seconds: float) -> int:
    """The most that it has, looked at each second."""
    end, most = time.monotonic() + seconds, unshared_mb(process)
    while time.monotonic() < end:
        await asyncio.sleep(min(1.0, seconds))
        most = max(most, unshared_mb(process))
    return round(most)


@asynccontextmanager
async def browsing(url: str, profile: Path) -> AsyncIterator[int]:
    """A browser without a test tool that shows one page; its process id."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    browser = await asyncio.create_subprocess_exec(
        chromium(), *options, url, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield browser.pid
    finally:
        browser.terminate()
        await browser.wait()
