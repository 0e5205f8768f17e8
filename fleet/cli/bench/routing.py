"""`fleet bench routing`: how well calls are spread over several model servers."""

import asyncio
from typing import Annotated

import typer

from fleet.cli import options
from fleet.cli.bench import shared


def routing(
    councils: Annotated[int, typer.Option("--councils", min=10, help="On each number of servers.")] = 200,
    json_output: options.Json = False,
) -> None:
    """Do the calls of a deliberation find the server that has their prefix, and nobody waits longer for it?

    1, 2, 4 and 8 simulated servers with prefix caches, councils of 4 agents
    with one round, one worker and four; beside least load at 80 % load; one
    of four servers killed. No NATS, no Ray. About five minutes.

    [dim]Example:[/dim]  fleet bench routing --json
    """
    from fleet.bench.routing import measure as mode

    shared.configure_logging()
    shared.show(asyncio.run(mode.measure(councils, (1, 4), shared.note)), json_output=json_output)
