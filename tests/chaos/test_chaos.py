"""`fleet chaos` as a user starts it: a short run with a fixed seed. The long one is a command, see its help."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import environment

pytestmark = pytest.mark.slow

SEED = 7


@pytest.mark.timeout(400)
async def test_short_run_holds_every_invariant(nats_binary: None, tmp_path: Path) -> None:
    """A fleet with replicas, a load, and a few faults of different kinds: nothing is lost, doubled or left."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fleet.cli", "chaos", "--json", "--seed", str(SEED)),
        *("--deliberations", "40", "--faults", "8", "--stop-seconds", "8", "--data-dir", str(tmp_path / "data")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    said, notes = await process.communicate()
    assert said, notes.decode()
    report = json.loads(said)
    assert report["violations"] == [], notes.decode()
    assert (process.returncode, report["holds"], report["seed"]) == (0, True, SEED)
    assert report["accepted"] == sum(report["ended"].values()) >= 40 - report["not_taken"]
    assert len(report["injected"]) == 8
    assert [fault for fault in report["injected"] if fault["what"].startswith("not made")] == []
