"""`fleet doctor` on fleets that are well, that would not serve a request, and that may not be looked at."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from fleet import subjects
from fleet.config import load, unconfigured
from fleet.jetstream import topology
from tests.support import agents
from tests.support.control_plane import running
from tests.support.permitted import permitted
from workers.simulator.server import Simulator, SimulatorConfig


async def doctor(nats_url: str, data_dir: Path, **environ: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit status, and the findings by what they are about."""
    words = ("doctor", "--json", "--nats-url", nats_url, "--data-dir", str(data_dir))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fleet.cli", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**unconfigured(os.environ), **environ},
    )
    out, err = await process.communicate()
    assert err == b""
    assert process.returncode is not None
    return process.returncode, {finding["what"]: finding for finding in json.loads(out)}


async def test_a_fleet_that_serves(nats_url: str, tmp_path: Path) -> None:
    """Everybody is at work, nothing waits, and the model has said a word. A dead letter is told."""
    async with Simulator(SimulatorConfig()) as model, running(nats_url, agents.answer) as fleet:
        status, found = await doctor(nats_url, tmp_path, VLLM_URL=model.url)
        assert [what for what, finding in found.items() if finding["verdict"] == "fail"] == []
        assert status == 0
        for what in ("dispatcher", "collector", "service", "workers", "waiting", "dead letters", f"vllm {model.url}"):
            assert found[what]["verdict"] == "ok", found[what]
        js = fleet.nc.jetstream()
        await js.publish(f"{subjects.DEADLETTER}.x", b"?")
        await js.publish(subjects.replayed(1), b"{}")
        _, found = await doctor(nats_url, tmp_path, VLLM_URL=model.url)
        assert found["dead letters"]["found"].startswith("1 message ")


async def test_a_fleet_that_would_not_serve(nats_url: str, tmp_path: Path) -> None:
    """Nobody is at work, a request waits, and no model answers: each is named, and the status is 1."""
    async with running(nats_url, agents.answer):
        pass
    status, found = await doctor(nats_url, tmp_path, VLLM_URL="http://127.0.0.1:9")
    assert status == 1
    failed = {what for what, finding in found.items() if finding["verdict"] == "fail"}
    assert failed == {"dispatcher", "collector", "service", "workers", "vllm http://127.0.0.1:9"}
    assert all(found[what]["todo"] for what in failed)
    assert "Errno" not in json.dumps(found)


@pytest.mark.usefixtures("nats_binary")
async def test_who_may_not_look_is_told_so(tmp_path: Path) -> None:
    """A worker's user sees little of a fleet, and a wrong password nothing."""
    async with permitted(tmp_path / "nats") as users:
        async with users.connected("control") as (nc, _):
            await topology.declare(nc.jetstream(), load({}))
        _, found = await doctor(users.url("worker"), tmp_path)
        assert "may not publish" in found["permissions"]["found"]
        status, found = await doctor(users.url("worker").replace(":", ":x", 2), tmp_path)
        assert status == 3
        assert "refuses user" in found["NATS"]["found"]
        assert "wrong" in found["NATS"]["todo"]
