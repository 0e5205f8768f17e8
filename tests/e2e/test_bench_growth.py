"""`fleet bench scale` and `progress` as a user starts them, small: every figure is there. No number is judged."""

import asyncio
import json
import sys
from typing import Any

import pytest

from tests.e2e.conftest import environment

SMALL = ("--turns", "1", "--deliberations", "4", "--stored", "200", "--in-flight", "30", "--starts", "1", "--idle", "1")


async def bench(*arguments: str) -> dict[str, Any]:
    """What it prints as JSON."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fleet.cli", "bench", *arguments, "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    said, notes = await process.communicate()
    assert process.returncode == 0, notes.decode()
    report: dict[str, Any] = json.loads(said.splitlines()[-1])
    return report


def check(report: dict[str, Any], mode: str, compared: set[str], alone: set[str]) -> None:
    """`compared` have a baseline, figures that stand `alone` have none."""
    assert report["mode"] == mode
    assert report["machine"]["cpus"] >= 1
    assert report["figures"].keys() == compared | alone
    for name, figure in report["figures"].items():
        assert figure["value"] is not None
        assert (figure["baseline"] is None) == (figure["ratio"] is None) == (name in alone), name


async def test_waiting_and_resting(nats_binary: None) -> None:
    """Parts are measured alone where they are asked for."""
    report = await bench("scale", *SMALL, "--part", "in-flight", "--part", "idle")
    check(report, "scale", set(), {"memory_per_in_flight_bytes", "ready_s", "idle_cpu_percent"})
    for table in ("idle_processes", "in_flight_processes"):
        assert {"nats", "dispatcher", "collector", "actor"} <= {row["process"] for row in report[table]}
    assert report["settings"]["in_flight"] == 30


async def test_stored(nats_binary: None) -> None:
    """The figures are named by what was stored."""
    report = await bench("scale", *SMALL, "--part", "stored")
    compared = {"cost_20_vs_2_stored", "cost_200_vs_2_stored", "latency_200_vs_2_stored"}
    check(report, "scale", compared, {"memory_per_stored_bytes", "disk_per_stored_bytes"})
    assert [row["stored"] for row in report["stored"]] == ["2", "20", "200"]


@pytest.mark.timeout(300)
async def test_workers(nats_binary: None) -> None:
    """A second dispatcher and collector work beside the first ones."""
    report = await bench("scale", *SMALL, "--part", "workers")
    workers = {"throughput_1_vs_2_workers", "throughput_4_vs_2_workers", "throughput_2_vs_1_dispatchers"}
    check(report, "scale", workers, set())
    assert len(report["crews"]) == 4


async def test_progress(nats_binary: None) -> None:
    """Whoever watches hears; who tells nothing is heard of less."""
    report = await bench("progress", "--calls", "4", "--turns", "1", "--window", "1")
    compared = {"cpu_streaming_vs_silent", "cpu_1_watcher_vs_none", "cpu_8_watchers_vs_none"}
    check(report, "progress", compared, set())
    rows = {row["told"]: row for row in report["streaming"]}
    assert rows["tells nothing"]["events_per_second"] == 0
    assert rows["no watcher"]["events_per_second"] > 0
    assert rows["8 watchers"]["heard_per_second"] > 0
