"""`fleet bench` of speed: what is computed from the times it takes."""

import asyncio
import json

import pytest
from typer.testing import CliRunner

from fleet.bench import report
from fleet.bench.report import ratio_of_medians
from fleet.bench.speed import rig, saturation
from fleet.bench.speed.saturation import Server, Window
from fleet.cli.app import app
from fleet.errors import FleetError

runner = CliRunner()

# --- parallel ---------------------------------------------------------------------------------------------------------


def test_median_ratio_has_an_error_from_enough_pairs_on() -> None:
    """A few pairs say nothing of how sure the ratio is."""
    values, baselines = [110.0, 120.0, 130.0], [100.0, 100.0, 400.0]
    assert ratio_of_medians(values, baselines) == (120, 100, None)
    enough = ratio_of_medians(values * report.FEWEST, baselines * report.FEWEST)
    assert enough[:2] == (120, 100)
    assert enough[2] is not None
    assert 0 < enough[2] < 1


def test_equal_pairs_have_no_error() -> None:
    """And every run of the bootstrap says the same."""
    value, baseline, error = ratio_of_medians([2.0] * 20, [1.0] * 20)
    assert (value, baseline) == (2, 1)
    assert error == pytest.approx(0)


# --- saturation -------------------------------------------------------------------------------------------------------


def test_metrics_are_summed_over_their_labels() -> None:
    """Of several models, and of several ways to finish."""
    text = (
        "# HELP vllm:request_success_total Count of successfully processed requests.\n"
        'vllm:request_success_total{finished_reason="stop",model_name="a b"} 2.0\n'
        'vllm:request_success_total{finished_reason="length",model_name="a b"} 3.0\n'
        "process_open_fds 7\n"
    )
    assert rig.totals(text) == {"vllm:request_success_total": 5, "process_open_fds": 7}


def metrics(tokens: float, running: float, waiting: float) -> dict[str, float]:
    return {
        "vllm:generation_tokens_total": tokens,
        "vllm:num_requests_running": running,
        "vllm:num_requests_waiting": waiting,
    }


def test_window_tells_the_rate_between_its_ends() -> None:
    """Whatever was written before it began; queues are averages."""
    samples = [(10.0, metrics(500, 4, 8)), (11.0, metrics(900, 4, 6)), (14.0, metrics(1300, 1, 1))]
    seen = saturation.window(samples, {"nats": 0.08})
    assert seen == Window(tokens_per_second=200, running=3, waiting=5, cpu_us={"nats": 100})


async def test_load_is_kept_up_and_ends_with_its_last_calls() -> None:
    """Each that ends is followed by another; none is left when the load is."""
    going, most, ended = set[str](), 0, 0

    async def ask(task_id: str) -> None:
        nonlocal most, ended
        assert task_id not in going
        going.add(task_id)
        most = max(most, len(going))
        await asyncio.sleep(0)
        going.remove(task_id)
        ended += 1
        if ended == 50:
            enough.set()

    enough = asyncio.Event()
    async with saturation.kept_up(ask, 5, "load"):
        await enough.wait()
    assert (going, most) == (set(), 5)


async def test_load_that_fails_is_an_error() -> None:
    """A system that cannot keep the server busy is not measured."""

    async def ask(task_id: str) -> None:
        raise FleetError(task_id)

    with pytest.raises(ExceptionGroup) as failed:
        async with saturation.kept_up(ask, 1, "load"):
            await asyncio.Event().wait()
    assert failed.group_contains(FleetError, match="load-0")


def test_report_holds_the_fleet_against_direct() -> None:
    """A figure and a panel for each server, a row for each system of it."""
    windows = {
        "fleet": [Window(9, 4, 8, 100, {"nats": 15}), Window(9, 4, 8, 120, {"nats": 25})],
        "direct": [Window(10, 4, 8, 110), Window(10, 4, 8, 110)],
        "vllm_bench": [Window(8, 4, 8)],
    }
    told = saturation.result({"saturation_4": Server("simulated", windows)}, 4, 2, 1.0)
    facts = json.loads(told.json())
    figure = facts["figures"]["saturation_4"]
    assert (figure["value"], figure["baseline"], figure["ratio"], figure["vllm_bench"]) == (9, 10, 0.9, 8)
    assert [row["tokens_each"] for row in facts["servers"]] == [110, 110, None]
    assert facts["processes"] == [{"process": "nats, simulated", "cpu_us": 20}]
    assert facts["settings"]["calls_wanted"] == 12
    assert len(told.panels) == 1


# --- the commands -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["parallel", "saturate"])
def test_help_has_an_example(mode: str) -> None:
    """As every command's."""
    shown = runner.invoke(app, ["bench", mode, "--help"])
    assert shown.exit_code == 0
    assert "Example" in shown.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["parallel", "--deliberations", "1"],
        ["saturate", "--at-once", "0"],
        ["saturate", "--vllm-bench", "/no/such/vllm"],
        ["saturate", "--vllm-url", "http://a:1,http://b:1"],
    ],
    ids=" ".join,
)
def test_bad_usage_exits_with_2(arguments: list[str]) -> None:
    """Before anything is started."""
    assert runner.invoke(app, ["bench", *arguments]).exit_code == 2
