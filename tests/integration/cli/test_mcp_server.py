"""`fleet mcp`, by the SDK's own client over stdio, on a whole fleet with the simulator."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from fleet.config import unconfigured
from tests.support.fleets.whole_fleet import whole
from workers.simulator.server import SimulatorConfig


@asynccontextmanager
async def assistant(nats_url: str) -> AsyncIterator[Client]:
    """Connected to a server of its own."""
    command = StdioServerParameters(
        command=sys.executable,
        args=["-m", "fleet.cli", "mcp", "--nats-url", nats_url],
        env=unconfigured(os.environ),
    )
    async with Client(command) as client:
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    assert answer.structured_content is not None
    return dict(answer.structured_content)


async def test_an_assistant_asks_and_gets_the_answer(nats_url: str) -> None:
    """Tools describe themselves; progress is told; the result can be had again."""
    async with whole(nats_url), assistant(nats_url) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert tools.keys() == {"deliberate", "result", "cancel"}
        assert all(tool.description and tool.output_schema for tool in tools.values())
        assert "context" not in tools["deliberate"].input_schema["properties"]
        told: list[str | None] = []

        async def progress(done: float, total: float | None, message: str | None) -> None:
            told.append(message)

        answer = await client.call_tool(
            "deliberate",
            {"question": "Which cache?", "agents": 2, "rubric": {"cost": 1}, "task_id": "mine"},
            progress_callback=progress,
        )
        assert not answer.is_error
        outcome = dict(answer.structured_content or {})
        assert (outcome["task_id"], outcome["status"]) == ("mine", "COMPLETED")
        assert outcome["answer"]
        assert "agent-dev-" in outcome["verdict"]
        assert told[0] == "task mine"
        assert any("score" in (message or "") for message in told)
        assert await call(client, "result", task_id="mine") == outcome


@pytest.mark.slow
async def test_what_takes_longer_goes_on_and_can_be_cancelled(nats_url: str) -> None:
    """The caller is not kept waiting; a second cancel is an error in words."""
    async with whole(nats_url, SimulatorConfig(latency_ms=60_000)), assistant(nats_url) as client:
        outcome = await call(client, "deliberate", question="Which cache?", agents=2, wait_seconds=1)
        assert outcome["status"] in ("PENDING", "IN_PROGRESS")
        task_id = outcome["task_id"]
        assert (await call(client, "result", task_id=task_id))["answer"] is None
        assert (await call(client, "cancel", task_id=task_id, reason="enough"))["status"] == "CANCELLED"
        ended = await call(client, "result", task_id=task_id, wait_seconds=10)
        assert (ended["status"], ended["error"]) == ("CANCELLED", "enough")
        again = await client.call_tool("cancel", {"task_id": task_id})
        assert (again.is_error, "ended" in str(again.content)) == (True, True)


@pytest.mark.slow
async def test_errors_are_sentences(nats_url: str) -> None:
    """A bad request, an unknown task, no fleet: for the model to read."""
    async with whole(nats_url), assistant(nats_url) as client:
        bad = await client.call_tool("deliberate", {"question": "x", "agents": 100})
        assert (bad.is_error, "$.num_agents" in str(bad.content)) == (True, True)
        assert (await call(client, "result", task_id="nobody"))["status"] == "UNKNOWN"
    async with assistant("nats://127.0.0.1:1") as client:
        nobody = await client.call_tool("result", {"task_id": "x"})
        assert (nobody.is_error, "no NATS server answers" in str(nobody.content)) == (True, True)


def test_without_the_sdk_it_says_what_to_install() -> None:
    """Exit status 2, one line; before it reads settings, or looks for a fleet."""
    code = "import sys; sys.modules['mcp'] = None; sys.argv = ['fleet', 'mcp']; from fleet.cli import main; main()"
    environ = {**unconfigured(os.environ), "FLEET_CONFIG": "no-such-file.toml"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'deliberation-fleet[mcp]'" in done.stderr
