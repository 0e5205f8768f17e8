"""A NATS that stores nothing, because JetStream is not on: every command says so, and waits for nothing."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fleet.client import Unreachable, connect
from fleet.local.nats_server import find_server
from tests.support.client import commands
from tests.support.nats.servers import HOST, free_ports
from tests.support.waiting import until

WITHIN_S = 45
"""Less than any of them would wait for an answer."""


@pytest.fixture
async def bare_url(tmp_path: Path, nats_binary: None) -> AsyncIterator[str]:
    (port,) = free_ports(1)
    with (tmp_path / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(str(find_server()), "-a", HOST, "-p", str(port)), stdout=log, stderr=log, env=dict(os.environ)
        )
    try:
        await until(lambda: "Server is ready" in (tmp_path / "log").read_text())
        yield f"nats://{HOST}:{port}"
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize(
    "words",
    [
        *("ask x", "submit x", "result x", "cancel x", "watch", "watch x", "list", "status", "top", "report x"),
        "deadletter list",
    ],
)
async def test_a_command_says_that_jetstream_is_off(bare_url: str, words: str) -> None:
    """Exit status 3, and what to do."""
    async with asyncio.timeout(WITHIN_S):
        code, _, err = await commands.fleet(*words.split(), "--nats-url", bare_url)
    assert (code, "JetStream is not on at" in err) == (3, True), err


async def test_the_client_says_that_jetstream_is_off(bare_url: str) -> None:
    """Of whatever it is asked."""
    async with asyncio.timeout(WITHIN_S):
        for use in ("ask", "submit", "result", "cancel"):
            with pytest.raises(Unreachable, match="JetStream is not on"):
                async with connect(bare_url) as fleet:
                    await getattr(fleet, use)("x")


async def test_the_client_says_that_no_fleet_is_there(nats_url: str) -> None:
    """NATS as it should be, and nobody has ever declared a stream on it."""
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(Unreachable, match="no fleet does"):
            async with connect(nats_url) as fleet:
                await fleet.ask("x")
