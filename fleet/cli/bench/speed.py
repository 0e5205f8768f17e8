"""`fleet bench` latency, throughput and their like: what the fleet costs beside what one would otherwise write."""

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli import options
from fleet.cli.bench import shared

if TYPE_CHECKING:
    from fleet.bench.report import Report
    from fleet.bench.speed.rig import Rig


def latency(
    deliberations: Annotated[
        int, typer.Option("--deliberations", min=10, help="Of each system, at each pace of the model.")
    ] = 200,
    plot: shared.Plot = None,
    json_output: options.Json = False,
) -> None:
    """What does the fleet add to the time of the model? One deliberation after the other, stage by stage.

    3 agents, no round, no call but the proposals; at a model of 0 and of
    100 ms, beside `bare` (the same work in plain nats-py) and `direct`
    (aiohttp alone, nothing stored). About two minutes.

    [dim]Example:[/dim]  fleet bench latency --plot latency.png
    """

    async def measure(rig: "Rig") -> "Report":
        from fleet.bench.speed import latency as mode

        return await mode.measure(rig, deliberations, shared.note)

    _run(measure, plot, json_output)


def throughput(
    deliberations: Annotated[
        int,
        typer.Option("--deliberations", min=50, help="Of each system in each turn; at least twice those in flight."),
    ] = 600,
    turns: Annotated[int, typer.Option("--turns", min=2, help="More make it surer.")] = 5,
    plot: shared.Plot = None,
    json_output: options.Json = False,
) -> None:
    """How many deliberations a second, and how much processor for each? 64 and 1,000 in flight, a model of 0 ms.

    3 agents, no round, no call but the proposals; beside `bare` and
    `direct`, in turns. About three minutes.

    [dim]Example:[/dim]  fleet bench throughput --json
    """

    async def measure(rig: "Rig") -> "Report":
        from fleet.bench.speed import throughput as mode

        return await mode.measure(rig, deliberations, turns, shared.note)

    _run(measure, plot, json_output)


def parallel(
    deliberations: Annotated[
        int, typer.Option("--deliberations", min=2, help="Of each system, with each number of agents.")
    ] = 30,
    plot: shared.Plot = None,
    json_output: options.Json = False,
) -> None:
    """Do more agents take more time? 1, 3, 5 and 16 of them, in turns, at a model of 500 ms.

    No round, no call but the proposals, one deliberation after the other;
    beside `direct` (aiohttp alone), which shows the model server's share.
    About two and a half minutes.

    [dim]Example:[/dim]  fleet bench parallel --plot parallel.png
    """

    async def measure(rig: "Rig") -> "Report":
        from fleet.bench.speed import parallelism as mode

        return await mode.measure(rig, deliberations, shared.note)

    _run(measure, plot, json_output, bare=False)


def _run(measure: Callable[["Rig"], Awaitable["Report"]], plot: Path | None, json_output: bool, **rig: Any) -> None:
    """Starts a rig for one measurement, and shows what was found."""
    from fleet.bench import plot as plots
    from fleet.cli.signals import fast_loop, run_until_signalled

    if plot is not None:
        plots.check()
    report = run_until_signalled(_measured(measure, rig), loop_factory=fast_loop)
    if report is None:
        raise typer.Exit(130)
    if plot is not None:
        plots.figures(report, plot)
    shared.show(report, json_output=json_output)


async def _measured(measure: Callable[["Rig"], Awaitable["Report"]], rig: dict[str, Any]) -> "Report":
    from fleet.bench.speed.rig import Rig

    with tempfile.TemporaryDirectory(prefix="fleet-bench-") as directory:
        shared.note("starting NATS, a simulated model, a fleet and the baselines …")
        async with Rig(Path(directory), **rig) as running:
            return await measure(running)
