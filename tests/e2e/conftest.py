"""The whole fleet, as a user starts it: `fleet up --json` in a process of its own, against a foreign model server."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import pytest

from fleet.config import unconfigured
from tests.e2e.stub import StubModel
from tests.support.waiting import WITHIN_S

READY_WITHIN_S = 90
STOPPED_WITHIN_S = 40


@dataclass
class Up:
    """A running `fleet up`."""

    process: asyncio.subprocess.Process
    facts: dict[str, Any]
    nc: Any
    log: Path

    async def request(self, **body: Any) -> str:
        """Publishes a request; returns the task's id, from the PubAck if need be."""
        body.setdefault("task_description", "Design it")
        ack = await self.nc.request("deliberation.requested", json.dumps(body).encode(), timeout=WITHIN_S)
        return str(body.get("task_id") or f"d-{json.loads(ack.data)['seq']}")

    async def result(self, task_id: str, within_s: float = 60) -> dict[str, Any]:
        """Waits for the terminal event; asks again when the process that was asked has died."""
        body = json.dumps({"task_id": task_id, "wait_seconds": 5}).encode()
        async with asyncio.timeout(within_s):
            while True:
                try:
                    reply = json.loads((await self.nc.request("deliberation.result", body, timeout=6)).data)
                except nats.errors.TimeoutError:
                    continue
                if "result" in reply:
                    return dict(reply["result"])


def environment(**given: str) -> dict[str, str]:
    """This process's, without any setting of the fleet."""
    return {**unconfigured(os.environ), **given}


async def start(data_dir: Path, **env: str) -> Up:
    """Starts it and waits for its one line."""
    log = data_dir.with_suffix(".log")
    with log.open("w") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fleet.cli", "up", "--json", "--data-dir", str(data_dir)),
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env=environment(**env),
        )
    assert process.stdout is not None
    async with asyncio.timeout(READY_WITHIN_S):
        line = await process.stdout.readline()
    if not line:
        pytest.fail(f"`fleet up` ended with {await process.wait()}:\n{log.read_text()[-4000:]}")
    facts = json.loads(line)
    return Up(process, facts, await nats.connect(env.get("NATS_URL", facts["nats_url"])), log)


async def stop(up: Up, how: signal.Signals = signal.SIGTERM) -> int:
    """Signals it once, and returns its exit status."""
    await up.nc.close()
    if up.process.returncode is None:
        up.process.send_signal(how)
    try:
        async with asyncio.timeout(STOPPED_WITHIN_S):
            return await up.process.wait()
    except TimeoutError:
        up.process.kill()
        pytest.fail(f"`fleet up` did not end on {how.name}:\n{up.log.read_text()[-4000:]}")


@pytest.fixture
async def stub() -> AsyncIterator[StubModel]:
    """A model server that shares no code with the fleet."""
    async with StubModel() as model:
        yield model


@pytest.fixture
async def up(tmp_path: Path, stub: StubModel) -> AsyncIterator[Up]:
    """A fleet on the stub."""
    running = await start(tmp_path / "data", VLLM_URL=stub.url, FLEET_CONFIG=str(config(tmp_path)))
    yield running
    assert await stop(running) == 0


def config(tmp_path: Path) -> Path:
    """Roles whose values a test can look for in the requests."""
    path = tmp_path / "fleet.toml"
    path.write_text(
        '[roles.QA]\nmodel = "other-model"\ntemperature = 0.25\nmax_tokens = 333\npersona = "You doubt everything."\n'
        '[roles.POET]\npersona = "You rhyme."\n'
    )
    return path
