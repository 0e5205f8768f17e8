"""Runs `fleet top`: what the fleet does now, repeated until Ctrl-C."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli import options
from fleet.cli.doctor.fleet_state import FleetState
from fleet.cli.output import print_json, wide_console
from fleet.config import Settings
from fleet.local.data_dir import client_settings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fleet.client.listing import Summary

SHOWN = 20


def top(
    every: Annotated[float, typer.Option("--every", min=0.5, metavar="SECONDS", help="How often to look.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, print it, and end.")] = False,
    data_dir: options.DataDir = options.DATA_DIR,
    nats_url: options.NatsUrl = None,
    json_output: options.Json = False,
) -> None:
    """Watch the fleet at work: what waits, who works, which phases the deliberations are in.

    Ctrl-C ends it. With --json each look is one line. Off a terminal it looks
    once.

    [dim]Example:[/dim]  fleet top --every 1
    """
    asyncio.run(_top(client_settings(data_dir, nats_url), every, once, json_output))


async def _top(settings: Settings, every_s: float, once: bool, json_output: bool) -> None:
    from rich.live import Live

    from fleet.client.session import session

    screen = wide_console()
    async with session(settings) as fleet:
        state, summaries = await _look(fleet)
        if json_output or once or not screen.is_terminal:
            while True:
                _print(screen, state, summaries, json_output)
                if once or not json_output:
                    return
                await asyncio.sleep(every_s)
                state, summaries = await _look(fleet)
        with Live(picture(state, summaries), console=screen, screen=True, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(every_s)
                live.update(picture(*await _look(fleet)), refresh=True)


async def _look(fleet: Any) -> tuple[FleetState, "Sequence[Summary]"]:
    from nats.js.errors import NotFoundError

    from fleet.cli.doctor import fleet_state

    try:
        state, summaries = await asyncio.gather(fleet_state.look(fleet.nc), fleet.deliberations(limit=SHOWN))
    except KeyError:
        raise NotFoundError from None  # there is no fleet, and the session says so
    return state, summaries


def _print(screen: Any, state: FleetState, summaries: "Sequence[Summary]", json_output: bool) -> None:
    from msgspec import to_builtins

    if json_output:
        print_json({**to_builtins(state), "deliberations": to_builtins(summaries)})
    else:
        screen.print(picture(state, summaries))


def picture(state: FleetState, summaries: "Sequence[Summary]") -> "RenderableType":
    from rich.console import Group

    from fleet.cli.overview.listing import table
    from fleet.cli.overview.status import facts

    # What runs, then what ended last: a screen cuts the end off.
    shown = sorted(summaries, key=lambda each: each.status == "IN_PROGRESS")[::-1]
    return Group(facts(state), table(shown, datetime.now(UTC)))
