"""Runs `fleet chaos`: breaks everything on purpose, and checks that nothing is lost."""

import os
import secrets
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet import config
from fleet.cli import options
from fleet.exits import Exit
from fleet.secret_files import overlaid

if TYPE_CHECKING:
    from fleet.chaos.report import Report


def chaos(
    seed: Annotated[
        int | None, typer.Option("--seed", help="Decides load and faults. Default: a new one, which is printed.")
    ] = None,
    deliberations: Annotated[
        int,
        typer.Option("--deliberations", min=1, max=100_000, help="Good requests; bad and repeated ones come on top."),
    ] = 100,
    faults: Annotated[int, typer.Option("--faults", min=0, max=10_000, help="How many faults to inject.")] = 20,
    stop_seconds: Annotated[
        float, typer.Option("--stop-seconds", min=0, max=300, help="Longest time a process is stopped (SIGSTOP).")
    ] = 60.0,
    nats_servers: Annotated[
        int,
        typer.Option("--nats-servers", min=1, max=5, help="How many servers its NATS has: 1, or a cluster of 3 or 5."),
    ] = 1,
    nats_url: Annotated[
        str | None,
        typer.Option(
            "--nats-url",
            metavar="URL",
            help="Test the fleet that runs there, with nothing but messages: it costs model calls, and breaks nothing.",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            metavar="DIR",
            help="Keep data, logs and the record there. Default: a temporary one, kept if an invariant breaks.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="KIND[:TARGET]", help="Faults of this kind alone, kill or kill:nats. Repeatable."
        ),
    ] = None,
    json_output: options.Json = False,
) -> None:
    """Break a fleet on purpose, and check that every accepted deliberation ends exactly once.

    Starts a fleet on this machine (two dispatchers, two collectors, two to four
    workers, a simulated vLLM), keeps a seeded load of three tenants on it, and
    injects faults on a seeded schedule: processes killed, stopped, ended in
    turns, crashed at the worst moment; links silent or cut; the model server
    failing; messages forged, repeated, malformed; streams deleted or full. Then
    the record of it all is checked. Exit status 0 only if every invariant
    holds. 200 faults take about half an hour.

    [dim]Example:[/dim]  fleet chaos --deliberations 2000 --faults 200 --seed 7
    """
    from fleet.chaos import run, schedule
    from fleet.local.signals import run_until_signalled
    from fleet.observability.logs import configure_logging

    os.environ.setdefault("FLEET_LOG_LEVEL", "critical")
    configure_logging("chaos")
    chosen = secrets.randbelow(1_000_000) if seed is None else seed
    cards = schedule.cards(only or (), safe=nats_url is not None)
    if faults and not cards:
        kinds = dict.fromkeys(kind for kind, _ in schedule.cards(safe=nats_url is not None))
        raise typer.BadParameter(f"--only: expected a kind ({', '.join(kinds)}) or KIND:TARGET")
    if nats_servers % 2 == 0:
        raise typer.BadParameter("--nats-servers: expected 1, 3 or 5, for a cluster needs a majority")
    foreign = None if nats_url is None else config.load(overlaid(os.environ, NATS_URL=nats_url))
    directory = data_dir or Path(tempfile.mkdtemp(prefix="fleet-chaos-"))
    if foreign is not None:
        running = run.foreign(chosen, deliberations, faults, cards, settings=foreign, note=_note)
    else:
        own = partial(run.own, stop_s=stop_seconds, data_dir=directory, nats_servers=nats_servers)
        running = own(chosen, deliberations, faults, cards, note=_note)
    report = None
    try:
        report = run_until_signalled(running)
    finally:
        if data_dir is None and (report is None or report.holds):
            shutil.rmtree(directory, ignore_errors=True)
    if report is None:
        raise typer.Exit(Exit.INTERRUPTED)
    _show(report, directory, json_output=json_output)
    raise typer.Exit(Exit.DONE if report.holds else Exit.FAILED)


def _show(report: "Report", directory: Path, *, json_output: bool) -> None:
    if not report.holds:
        _note(f"the record of this run is in {directory}")
    if json_output:
        print(report.json())
    else:
        from rich.console import Console

        report.show(Console())


def _note(text: str) -> None:
    """Progress, for a person: never on standard output."""
    print(text, file=sys.stderr, flush=True)
