"""Holds what all modes of `fleet bench` share: options, progress, and showing the report."""

import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.output import wide_console

if TYPE_CHECKING:
    from fleet.bench.report import Report

Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw it as a PNG, too (needs the extra `bench`).")
]


def configure_logging() -> None:
    """What goes wrong is counted in the report, and children say it in logs of their own."""
    from fleet.observability import logs as observability

    os.environ.setdefault("FLEET_LOG_LEVEL", "critical")
    observability.configure_logging("bench")


def note(text: str) -> None:
    """Progress, for a person: never on standard output."""
    print(text, file=sys.stderr, flush=True)


def run(measured: Callable[[], Coroutine[Any, Any, "Report"]], plot: Path | None, json_output: bool) -> None:
    """Measures, and shows what was found."""
    from fleet.bench import plot as plots
    from fleet.event_loop import fast_loop
    from fleet.local.signals import run_until_signalled

    configure_logging()
    if plot is not None:
        plots.check()
    report = run_until_signalled(measured(), loop_factory=fast_loop)
    if report is None:
        raise typer.Exit(130)
    if plot is not None:
        plots.figures(report, plot)
    show(report, json_output=json_output)


def show(report: "Report", *, json_output: bool) -> None:
    """On standard output."""
    if json_output:
        print(report.json())
        return
    report.show(wide_console())
