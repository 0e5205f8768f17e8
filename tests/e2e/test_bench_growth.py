"""`fleet bench scale`, `progress` and `observability`, small: every figure is there. No time is judged."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fleet.bench.growth import replicas, stored
from tests.e2e.conftest import environment

pytestmark = pytest.mark.slow


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


async def test_in_flight(nats_binary: None) -> None:
    """Parts are measured alone where they are asked for."""
    report = await bench("scale", "--part", "in-flight", "--in-flight", "30", "--idle", "1")
    check(report, "scale", set(), {"memory_per_in_flight_bytes"})
    assert {"nats", "dispatcher", "collector", "actor"} <= {row["process"] for row in report["in_flight_processes"]}
    assert report["settings"]["in_flight"] == 30


async def test_idle(nats_binary: None) -> None:
    """Every kind of process is told of."""
    report = await bench("scale", "--part", "idle", "--starts", "1", "--idle", "1")
    check(report, "scale", set(), {"ready_s", "idle_cpu_percent"})
    assert {"nats", "dispatcher", "collector", "actor"} <= {row["process"] for row in report["idle_processes"]}


async def test_stored(nats_binary: None, tmp_path: Path) -> None:
    """Fleets find what was written into their stores, and work beside it."""
    report = await stored.measure(tmp_path, [1, 20], 2, 1, print)
    assert report.figures.keys() == {
        "cost_20_vs_1_stored",
        "latency_20_vs_1_stored",
        "memory_per_stored_bytes",
        "disk_per_stored_bytes",
    }


async def test_second_dispatcher_and_collector(nats_binary: None, tmp_path: Path) -> None:
    """They work beside the first ones, and their processor time counts."""
    name = "throughput_2_vs_1_dispatchers"
    report = await replicas.measure(tmp_path, 4, 1, print, {name: replicas.OTHERS[name]})
    assert report.figures.keys() == {name}
    memory = {row["process"]: row["memory_mib"] for row in report.tables[1].facts()}
    for kind in ("dispatcher", "collector"):
        alone, both = (memory[f"{kind}, {crew.title}"] for crew in (replicas.USUAL, replicas.OTHERS[name]))
        assert both > 1.5 * alone


async def test_streams(nats_binary: None) -> None:
    """Each stream and bucket is told of; those that every council needs have taken something, and nothing is lost."""
    report = await bench("scale", "--part", "streams", "--deliberations", "2")
    check(report, "scale", set(), {"messages_each", "bytes_each", "cpu_ms_each"})
    taken = {row["stream"]: row["messages_each"] for row in report["streams"]}
    assert taken["DELIBERATION_REQUESTS"] == 1
    assert taken["DELIBERATIONS"] == 2
    assert taken["AGENT_REQUESTS"] == taken["AGENT_RESPONSES"] == 12
    assert taken["DEAD_LETTERS"] == 0
    assert taken["KV_deliberations"] > 0
    kept = {row["stream"]: row["kept_bytes_each"] for row in report["streams"]}
    assert kept["DELIBERATIONS"] > 0
    assert kept["AGENT_REQUESTS"] == 0  # a work queue
    assert {"nats", "dispatcher", "collector", "actor"} <= {
        row["process"].partition(",")[0] for row in report["streams_processes"]
    }


async def test_progress(nats_binary: None) -> None:
    """Whoever watches hears; who tells nothing is heard of less."""
    report = await bench("progress", "--calls", "4", "--turns", "1", "--window", "1")
    compared = {"cpu_streaming_vs_silent", "cpu_1_watcher_vs_none", "cpu_8_watchers_vs_none"}
    check(report, "progress", compared, set())
    rows = {row["told"]: row for row in report["streaming"]}
    assert rows["tells nothing"]["events_per_second"] == 0
    assert rows["no watcher"]["events_per_second"] > 0
    assert rows["8 watchers"]["heard_per_second"] > 0


async def test_observability(nats_binary: None) -> None:
    """Spans of all processes arrive; those of 3 and of 12 calls are 8 and 29."""
    report = await bench("observability", "--deliberations", "2", "--turns", "2")
    compared = {"cpu_traced_vs_off_proposals", "cpu_traced_vs_off_council"}
    check(report, "observability", compared, set())
    assert 8 < report["settings"]["spans_per_trace"] < 29
    assert {row["fleet"] for row in report["rates"]} == {
        f"{kind}, {name}" for kind in ("proposals", "council") for name in ("traced", "off")
    }
