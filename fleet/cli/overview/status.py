"""Runs `fleet status`: what runs, what waits, which workers there are, what has a problem."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import to_builtins

from fleet import subjects
from fleet.cli import options
from fleet.cli.doctor.fleet_state import Consumer, FleetState
from fleet.cli.doctor.workers import pool_in_words, told_s
from fleet.cli.output import print_json, wide_console
from fleet.config import Settings
from fleet.exits import Exit
from fleet.local.data_dir import client_settings
from fleet.messages.workers import SILENT_S

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = 20


def status(
    data_dir: options.DataDir = options.DATA_DIR,
    nats_url: options.NatsUrl = None,
    every: Annotated[
        float | None, typer.Option("--every", min=1, metavar="SECONDS", help="Again and again, until Ctrl-C.")
    ] = None,
    json_output: options.Json = False,
) -> None:
    """Show what runs, what waits, who works, and what nobody could handle.

    Exit status 1 when a part of the fleet is not at work; `fleet doctor` says
    what to do about it.

    [dim]Example:[/dim]  fleet status --every 2
    """
    raise typer.Exit(asyncio.run(_status(client_settings(data_dir, nats_url), every, json_output)))


async def _status(settings: Settings, every_s: float | None, json_output: bool) -> int:
    from nats.js.errors import NotFoundError

    from fleet.cli.doctor import fleet_state
    from fleet.client.session import session

    screen = wide_console()
    async with session(settings) as fleet:
        while True:
            try:
                state = await fleet_state.look(fleet.nc)
            except KeyError:
                raise NotFoundError from None  # there is no fleet, and the session says so
            if json_output:
                print_json(to_builtins(state))
            else:
                screen.print(facts(state))
            if every_s is None:
                whole = state.instances and all(is_at_work(each, state) for each in state.consumers)
                return Exit.DONE if whole else Exit.FAILED
            await asyncio.sleep(every_s)


def is_at_work(consumer: Consumer, state: FleetState) -> bool:
    """Workers that have all the calls they may hold ask for none, and a pool may need no worker."""
    if consumer.served or consumer.name != subjects.WORKERS:
        return consumer.served
    if any(worker.open_calls and told_s(worker) < SILENT_S for worker in state.workers or ()):
        return True
    return state.pool is not None and state.pool.wanted == 0


def facts(state: FleetState) -> "Table":
    """What runs, what waits, who works."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    more = f" and {len(state.running) - SHOWN} more" if len(state.running) > SHOWN else ""
    table.add_row("running", f"{len(state.running)}", Text(" ".join(state.running[:SHOWN]) + more))
    table.add_row("waiting", f"{state.requests}", f"the oldest for {state.oldest_s:,.0f} s" if state.requests else "")
    for each in state.consumers:
        at_work = is_at_work(each, state)
        verdict = Text("at work", style="green") if at_work else Text("not at work", style="red")
        table.add_row(each.name, verdict, f"{each.waiting:,} wait, {each.open:,} in hand")
    if state.pool is not None:
        table.add_row("pool", f"{state.pool.wanted} wanted", pool_in_words(state.pool, state.workers or ()))
    for worker in state.workers or ():
        sick = ", ".join(f"{each.name} {each.breaker}" for each in worker.endpoints if each.breaker != "closed")
        calls = f"{worker.open_calls:,} calls open, {worker.done:,} done, {worker.failed:,} failed"
        silent_s = told_s(worker)
        verdict = Text("draining" if worker.draining else "at work", style="green")
        if silent_s >= SILENT_S:
            verdict = Text("silent", style="red")
        table.add_row(worker.name, verdict, f"{calls}; breakers: {sick}" if sick else calls)
    table.add_row("service", f"{len(state.instances)}", Text(" ".join(state.instances)))
    table.add_row("dead letters", f"{state.dead_letters}", "see `fleet deadletter list`" if state.dead_letters else "")
    return table
