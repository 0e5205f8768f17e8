"""A real Chromium. What it needs (`playwright`, axe, a Chromium, node) `make test-page` installs or asks for."""

import os
import shutil
from collections.abc import AsyncIterator

import pytest

playwright = pytest.importorskip("playwright.async_api", reason="make test-page installs it")


def need(*programs: str) -> str:
    """The first that is there."""
    for program in programs:
        if path := shutil.which(program):
            return path
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"none of {', '.join(programs)} is there")
    raise AssertionError


@pytest.fixture
async def browser() -> AsyncIterator[object]:
    async with playwright.async_playwright() as started:
        chromium = await started.chromium.launch(
            executable_path=need("chromium", "chromium-browser", "google-chrome"), args=["--no-sandbox"]
        )
        try:
            yield chromium
        finally:
            await chromium.close()
