"""`fleet bench quality --suite` on the simulated model: every way is played, and an interrupted run goes on."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fleet.cli.app import app
from tests.support.variants import some_of
from workers.simulator.config import SimulatorConfig
from workers.simulator.server import Simulator

WRITTEN = [{"id": str(n), "prompt": f"Name limiter {n}.", "pattern": "(?i)limiter"} for n in range(4)]
JUDGED = [
    {"id": str(n), "prompt": f"Which of {n}?", "candidates": [f"first {n}", f"other {n}"], "best": n % 2}
    for n in range(4)
]


async def bench(simulator: Simulator, tmp_path: Path, rows: list[Any], *more: str) -> Result:
    suite = tmp_path / "mine.jsonl"
    suite.write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = ["bench", "quality", "--suite", str(suite), "--vllm-url", simulator.url, "--json"]
    line += ["--results", str(tmp_path / "record.jsonl"), "--max-tokens", "200"]
    return await asyncio.to_thread(CliRunner().invoke, app, [*line, *more])


@some_of(
    1,
    ("rows", "ways"),
    [
        (WRITTEN, ["single", "council", "vote", "mean", "synthesis"]),
        (JUDGED, ["single", "vote", "mean", "council", "second_reading"]),
    ],
    ids=["written", "judged"],
)
async def test_a_suite_is_played_once_and_goes_on(rows: list[Any], ways: list[str], tmp_path: Path) -> None:
    """More tasks are played in addition; what is on record is not asked again."""
    async with Simulator() as simulator:
        first = await bench(simulator, tmp_path, rows, "--tasks", "2", "--plot", str(tmp_path / "suite.png"))
        assert first.exit_code == 0, first.output
        more = await bench(simulator, tmp_path, rows)
        calls = len(simulator.calls())
        same = await bench(simulator, tmp_path, rows)
        assert len(simulator.calls()) == calls
        other = await bench(simulator, tmp_path, rows, "--seed", "2")
    told = [json.loads(each.stdout) for each in (first, more, same)]
    assert [each["settings"]["tasks"] for each in told] == [2, 4, 4]
    assert [*told[1]["figures"]] == [f"mine_{way}" for way in ways]
    assert {row["items"] for row in told[1]["ways"]} == {4}
    assert told[1]["figures"] == told[2]["figures"]
    assert (tmp_path / "suite.png").read_bytes().startswith(b"\x89PNG")
    assert other.exit_code != 0


@pytest.mark.slow
@pytest.mark.parametrize("rows", [WRITTEN, JUDGED], ids=["written", "judged"])
async def test_judges_of_the_settings_review_what_is_scored(
    rows: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in the fleet; a record without them is of another run, and a single judge's tokens are its own."""
    async with Simulator() as simulator, Simulator(SimulatorConfig(model="rm")) as rm:
        alone = await bench(simulator, tmp_path, rows, "--tasks", "2")
        settings = tmp_path / "fleet.toml"
        endpoint = f'[endpoints.rm]\nurl = "{rm.url}"\nmodels = ["rm"]\n'
        settings.write_text(f'{endpoint}[judges.reward]\nkind = "classify"\nendpoint = "rm"\nmodel = "rm"\n')
        monkeypatch.setenv("FLEET_CONFIG", str(settings))
        mixed = await bench(simulator, tmp_path, rows, "--tasks", "2")
        assert "of another run: judges was" in str(mixed.exception) + mixed.output
        (tmp_path / "record.jsonl").unlink()
        judged = await bench(simulator, tmp_path, rows, "--tasks", "2")
        assert judged.exit_code == 0, judged.output
    told = [json.loads(each.stdout) for each in (alone, judged)]
    assert [each["settings"]["judges"] for each in told] == [[], ["reward: classify, rm"]]
    assert ["rm" in each["settings"]["models"] for each in told] == [False, True]
    before, after = ({row["way"]: row["tokens"] for row in each["ways"]} for each in told)
    if rows is JUDGED:
        more = {way for way, tokens in after.items() if tokens > before[way]}
        same = {way for way, tokens in after.items() if tokens == before[way]}
        assert more >= {"mean of all judges", "the council's ranking of the same scores"}
        assert same >= {"one judge", "vote of 4 judges"}


async def test_a_suite_needs_a_model_and_a_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It says so; nothing is simulated in their place."""
    monkeypatch.delenv("VLLM_URL", raising=False)
    alone = CliRunner().invoke(app, ["bench", "quality", "--suite", "ifeval"])
    assert (alone.exit_code, "--copy" in alone.output) == (2, True)
    (tmp_path / "mine.jsonl").write_text(json.dumps(WRITTEN[0]))
    alone = CliRunner().invoke(app, ["bench", "quality", "--suite", str(tmp_path / "mine.jsonl")])
    assert alone.exit_code != 0
    assert "VLLM_URL" in str(alone.exception) + alone.output
