"""What `fleet up` says of where things come from, and what it makes of its options."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fleet.cli import options
from fleet.cli.app import app
from fleet.cli.run import models_from, pace, slower
from fleet.config import Settings
from fleet.model_servers import EndpointConfig
from workers.simulator.server import parse_arguments

URL = "http://gpu-1:8000"
NAMED = {"gpu-1": EndpointConfig(url=URL)}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(vllm_urls=(URL,)), "VLLM_URL"),
        (Settings(endpoints=NAMED), "FLEET_CONFIG"),
        (Settings(vllm_urls=(URL,), endpoints=NAMED), "VLLM_URL and FLEET_CONFIG"),
    ],
)
def test_model_servers_come_from_where_they_were_set(settings: Settings, said: str) -> None:
    """The file's are not given by VLLM_URL."""
    assert models_from(settings) == said


def test_simulated_model_is_as_slow_as_it_is_told() -> None:
    """So that a council can be watched."""
    assert parse_arguments(pace(Settings(), 20)).tokens_per_second == 20
    assert pace(Settings(), None) == ()


def test_pace_is_of_a_simulated_model_alone() -> None:
    """Nobody believes to have slowed a real one down."""
    refused = CliRunner().invoke(app, ["up", "--tokens-per-second", "20"], env={"VLLM_URL": URL})
    assert refused.exit_code == 2
    assert "--tokens-per-second" in refused.output
    assert "VLLM_URL" in refused.output


def test_simulator_explains_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    """A name and a default are no help."""
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "pace of each answer; 0: as fast as it goes; default: 0.0" in shown


def test_the_way_to_watch_starts_the_same_fleet() -> None:
    """With its data, wherever it lies."""
    assert slower(options.DATA_DIR).endswith(" up --tokens-per-second 40")
    assert slower(Path("/data")).endswith(" up --data-dir /data --tokens-per-second 40")
    assert slower(Path("/my data")).endswith(" up --data-dir '/my data' --tokens-per-second 40")
