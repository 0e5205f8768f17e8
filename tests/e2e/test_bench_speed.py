"""`fleet bench parallel` and `saturate` on a fleet of their own: that they measure something, not what."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from fleet.bench.report import Report
from fleet.bench.speed import parallelism, saturation, throughput
from fleet.bench.speed.rig import Rig

pytestmark = pytest.mark.slow

AT_ONCE = 4


async def test_modes_measure_what_they_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every figure has a value, a baseline and their ratio; on one rig, for a fleet takes its time to start."""
    monkeypatch.setattr(parallelism, "MODEL_MS", 20)
    monkeypatch.setattr(parallelism, "WARM_UP", 1)
    pace = ("--max-num-seqs", str(AT_ONCE), "--answer-tokens", "20")
    for constant, small in (("IN_FLIGHT", (2, 4)), ("WARM_UP", 4), ("WARM_IN_FLIGHT", 2)):
        monkeypatch.setattr(throughput, constant, small)
    async with Rig(tmp_path, pace=pace, config=saturation.CONFIG) as rig:
        rates = await throughput.measure(rig, 10, 2, note)
        parallel = await parallelism.measure(rig, 2, note)
        server = await saturation.measure(rig, "simulated", AT_ONCE, 2, 0.3, note)
    names = ("throughput_vs_bare", "cpu_vs_bare", "throughput_vs_direct")
    figures_of(rates, *names, *(f"{name}_4" for name in names))
    figures_of(parallel, "wall_3_vs_1_agents", "wall_5_vs_1_agents", "wall_16_vs_1_agents")
    figures_of(saturation.result({"saturation_4": server}, AT_ONCE, 2, 0.3), "saturation_4")
    assert all(0 < window.running <= AT_ONCE for windows in server.windows.values() for window in windows)


async def test_the_command_prints_one_object_and_draws(tmp_path: Path) -> None:
    """Nothing but the JSON on standard output; the plot is a PNG."""
    plot = tmp_path / "latency.png"
    command = [sys.executable, "-m", "fleet.cli", "bench", "latency", "--deliberations", "10", "--json", "--plot", plot]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    out, told = await process.communicate()
    assert process.returncode == 0, told.decode()
    facts = json.loads(out)
    shares = ("p50", "p95", "p99")
    assert set(facts["figures"]) == {f"overhead_{p}_ms{at}" for p in shares for at in ("", "_model_0_ms")}
    assert len(facts["stages"]) == 12
    assert plot.read_bytes().startswith(b"\x89PNG")


def note(text: str) -> None:
    """Nobody watches."""


def figures_of(report: Report, *names: str) -> None:
    """The report's JSON has these and no others, all of them measured."""
    facts = json.loads(report.json())
    assert facts["mode"] == report.mode
    assert facts["machine"]["cpus"]
    assert set(facts["figures"]) == set(names)
    for figure in facts["figures"].values():
        assert figure["value"] > 0
        assert figure["baseline"] > 0
        assert figure["ratio"] == pytest.approx(figure["value"] / figure["baseline"], rel=0.01)
