"""`fleet bench scale`: what it costs as things grow."""

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli import options
from fleet.cli.bench import shared

if TYPE_CHECKING:
    from fleet.bench.report import Report


class Part(StrEnum):
    """Of `fleet bench scale`."""

    STORED = "stored"
    WORKERS = "workers"
    IN_FLIGHT = "in-flight"
    IDLE = "idle"
    STREAMS = "streams"
    MODELS = "models"


def scale(
    part: Annotated[
        list[Part] | None, typer.Option("--part", help="Measure this alone. Repeatable. Default: everything.")
    ] = None,
    stored: Annotated[
        int,
        typer.Option("--stored", min=100, max=999_999, help="Most deliberations in store; some 20 KB of disk each."),
    ] = 100_000,
    in_flight: Annotated[int, typer.Option("--in-flight", min=1, help="Deliberations that wait for a model.")] = 10_000,
    deliberations: Annotated[
        int, typer.Option("--deliberations", min=2, help="Of each fleet in each turn (stored, workers, streams).")
    ] = 200,
    turns: Annotated[int, typer.Option("--turns", min=1, help="More make it surer.")] = 6,
    starts: Annotated[int, typer.Option("--starts", min=1, help="How often `fleet up` is started (idle).")] = 3,
    idle_s: Annotated[
        float, typer.Option("--idle", min=1, metavar="SECONDS", help="How long a fleet is watched (idle, in-flight).")
    ] = 30,
    plot: shared.Plot = None,
    json_output: options.Json = False,
) -> None:
    """What does it cost as things grow? Deliberations in store and in flight, workers, and the fleet at rest.

    stored: CPU and time beside 1,000, 10,000 and 100,000 deliberations that
    have ended, and what each takes of memory and disk. workers: 1, 2 and 4 of
    them; and a second dispatcher and collector. in-flight: memory of 10,000
    deliberations that wait for a model. idle: time until ready, and CPU while
    nothing is asked. streams: what each stream takes of a council, and keeps.
    models: how long calls wait while copies of a model server come and go, by
    the calls that are coming and by open ones; in simulated time.
    Ten to fifteen minutes, and 2 GB in the directory for temporary files.

    [dim]Example:[/dim]  fleet bench scale --part idle --json
    """

    async def measured() -> "Report":
        from fleet.bench.growth import scale as mode

        sizes = mode.Sizes(
            stored=stored,
            deliberations=deliberations,
            turns=turns,
            in_flight=in_flight,
            starts=starts,
            idle_s=idle_s,
        )
        with tempfile.TemporaryDirectory(prefix="fleet-bench-") as directory:
            return await mode.measure(Path(directory), part or mode.PARTS, sizes, shared.note)

    shared.run(measured, plot, json_output)
