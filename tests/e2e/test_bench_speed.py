"""`fleet bench parallel` and `saturate` on a fleet of their own: that they measure something, not what."""

import json
from pathlib import Path

import pytest

from fleet.bench.report import Report
from fleet.bench.speed import parallelism, saturation
from fleet.bench.speed.rig import Rig

AT_ONCE = 4


async def test_modes_measure_what_they_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every figure has a value, a baseline and their ratio; on one rig, for a fleet takes its time to start."""
    monkeypatch.setattr(parallelism, "MODEL_MS", 20)
    monkeypatch.setattr(parallelism, "WARM_UP", 1)
    pace = ("--max-num-seqs", str(AT_ONCE), "--answer-tokens", "20")
    async with Rig(tmp_path, pace=pace, config=saturation.CONFIG, bare=False) as rig:
        parallel = await parallelism.measure(rig, 2, note)
        server = await saturation.measure(rig, "simulated", AT_ONCE, 2, 0.3, note)
    figures_of(parallel, "wall_3_vs_1_agents", "wall_5_vs_1_agents", "wall_16_vs_1_agents")
    figures_of(saturation.result({"saturation_4": server}, AT_ONCE, 2, 0.3), "saturation_4")
    assert all(0 < window.running <= AT_ONCE for windows in server.windows.values() for window in windows)


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
