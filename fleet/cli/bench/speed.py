"""Defines the modes of `fleet bench` that measure time and cost, beside what one would otherwise write."""

import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from fleet.cli import options
from fleet.cli.bench import shared

if TYPE_CHECKING:
    from fleet.bench.report import Report
    from fleet.bench.speed.rig import Rig

T = TypeVar("T")


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


def saturate(
    at_once: Annotated[
        int,
        typer.Option(
            "--at-once",
            min=1,
            max=256,
            help="Calls that the model server runs at once; three times as many are wanted.",
        ),
    ] = 64,
    turns: Annotated[int, typer.Option("--turns", min=1, help="Windows of each system; more make it surer.")] = 4,
    window_s: Annotated[float, typer.Option("--window", min=1, metavar="SECONDS", help="Length of a window.")] = 10,
    vllm_url: Annotated[
        str | None,
        typer.Option(
            "--vllm-url",
            envvar="VLLM_URL",
            metavar="URL",
            help="A model server that nobody else uses meanwhile: measured as well, with answers of 128 tokens.",
        ),
    ] = None,
    vllm_bench: Annotated[
        str | None,
        typer.Option(
            "--vllm-bench",
            metavar="PROGRAM",
            help="A `vllm` whose `bench serve` is measured at that server, too. Default: the one on PATH, if any.",
        ),
    ] = None,
    plot: shared.Plot = None,
    json_output: options.Json = False,
) -> None:
    """Does the fleet keep a model server busy? Tokens per second, by the server's own counter.

    On a simulated server that runs 64 calls at once, and on a real one where
    one is given; beside a client that calls the server itself, in turns.
    About five minutes for each.

    [dim]Example:[/dim]  fleet bench saturate --vllm-url http://gpu-1:8000
    """

    from fleet.setting_values import endpoints

    urls, vllm = endpoints(vllm_url or ""), shutil.which(vllm_bench or "vllm")
    if len(urls) > 1:
        raise typer.BadParameter("--vllm-url: one server, for its own counter is read")
    if vllm_bench and vllm is None:
        raise typer.BadParameter(f"--vllm-bench: no program {vllm_bench}")

    async def measured() -> "Report":
        from fleet.bench.speed import saturation as mode

        async def measure(rig: "Rig") -> mode.Server:
            title, client = (f"simulated, {at_once} at once", None) if rig.model else ("vLLM", vllm)
            return await mode.measure(rig, title, at_once, turns, window_s, shared.note, client)

        rigs: dict[str, dict[str, Any]] = {}
        if urls:  # first, for it may fail
            rigs["saturation_vllm"] = {"vllm_url": urls[0]}
        rigs[f"saturation_{at_once}"] = {"pace": mode.pace(at_once)}
        servers = {
            name: await _measured(measure, {**rig, "config": mode.CONFIG, "bare": False}) for name, rig in rigs.items()
        }
        return mode.result(servers, at_once, turns, window_s)

    shared.run(measured, plot, json_output)


def progress(
    calls: Annotated[int, typer.Option("--calls", min=1, max=256, help="Calls that write at the same time.")] = 64,
    turns: Annotated[int, typer.Option("--turns", min=1, help="More make it surer.")] = 6,
    window_s: Annotated[
        float, typer.Option("--window", min=0.5, max=5, metavar="SECONDS", help="How long each is watched in a turn.")
    ] = 4,
    plot: shared.Plot = None,
    json_output: options.Json = False,
) -> None:
    """What does it cost to tell what models write? 64 calls at 50 tokens/s, with no watcher, 1 and 8.

    Beside a fleet that tells nearly nothing, in turns. CPU of the fleet and of
    NATS; that of the watchers themselves does not count. About four minutes.

    [dim]Example:[/dim]  fleet bench progress --json
    """

    async def measured() -> "Report":
        from fleet.bench.speed import progress as mode

        with tempfile.TemporaryDirectory(prefix="fleet-bench-") as directory:
            return await mode.measure(Path(directory), calls, turns, window_s, shared.note)

    shared.run(measured, plot, json_output)


def observability(
    deliberations: Annotated[
        int, typer.Option("--deliberations", min=2, help="Of each fleet, of each kind, in each turn.")
    ] = 200,
    turns: Annotated[int, typer.Option("--turns", min=2, help="More make it surer.")] = 6,
    plot: shared.Plot = None,
    json_output: options.Json = False,
) -> None:
    """What do traces cost? CPU per deliberation with every trace recorded, beside none.

    3 agents with 3 and with 12 calls, a model of 0 ms; the spans go to a
    receiver of OTLP whose own time does not count, and are all there at the
    end. Two fleets, in turns. About five minutes.

    [dim]Example:[/dim]  fleet bench observability --json
    """

    async def measured() -> "Report":
        from fleet.bench.speed import observability as mode

        with tempfile.TemporaryDirectory(prefix="fleet-bench-") as directory:
            return await mode.measure(Path(directory), deliberations, turns, shared.note)

    shared.run(measured, plot, json_output)


def _run(measure: Callable[["Rig"], Awaitable["Report"]], plot: Path | None, json_output: bool, **rig: Any) -> None:
    """Starts a rig for one measurement, and shows what was found."""
    shared.run(lambda: _measured(measure, rig), plot, json_output)


async def _measured(measure: Callable[["Rig"], Awaitable[T]], rig: dict[str, Any]) -> T:
    from fleet.bench.speed.rig import Rig

    with tempfile.TemporaryDirectory(prefix="fleet-bench-") as directory:
        shared.note("starting what is measured …")
        async with Rig(Path(directory), **rig) as running:
            return await measure(running)
