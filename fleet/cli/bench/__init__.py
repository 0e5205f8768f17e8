"""Defines `fleet bench`: what this software is worth, and what it costs, measured where it runs."""

import typer

from fleet.cli.bench import speed
from fleet.cli.bench.quality import quality
from fleet.cli.bench.routing import routing
from fleet.cli.bench.scale import scale

app = typer.Typer(
    help="Measure what the fleet is worth, and what it costs: ratios taken within one run.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.command()(quality)
app.command()(routing)
app.command()(speed.latency)
app.command()(speed.throughput)
app.command()(speed.parallel)
app.command()(speed.saturate)
app.command()(scale)
app.command()(speed.progress)
app.command()(speed.observability)
