"""Runs `fleet list`: deliberations that run and that have ended."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, cast

import typer

from fleet.cli import options
from fleet.cli.output import console, literal, print_json
from fleet.config import Settings
from fleet.errors import BadRequest
from fleet.local.data_dir import client_settings
from fleet.tenants.names import key_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fleet.client.listing import Summary
    from fleet.messages import Status

DEFAULT_LIMIT = 50
SHOWN_CHARACTERS = 60
NOT_CUT = 160
"""Columns of what is no terminal."""
COLOURS = {"COMPLETED": "green", "IN_PROGRESS": "cyan", "FAILED": "red", "TIMEOUT": "red", "CANCELLED": "yellow"}


def list_(
    status: Annotated[
        list[str] | None,
        typer.Option(
            "--status",
            metavar="STATUS",
            help="Only these: IN_PROGRESS, COMPLETED, FAILED, TIMEOUT, CANCELLED. Repeatable.",
        ),
    ] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", metavar="TENANT", help="Only this tenant's.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, metavar="N", help="Show the newest N only; 0: all.")
    ] = DEFAULT_LIMIT,
    data_dir: options.DataDir = options.DATA_DIR,
    nats_url: options.NatsUrl = None,
    json_output: options.Json = False,
) -> None:
    """List deliberations, the newest last: those that run, and those that ended in the last days.

    Requests that wait for room are not among them; `fleet status` counts them.
    With --json each is one line.

    [dim]Example:[/dim]  fleet list --status FAILED --status TIMEOUT
    """
    asyncio.run(_list(client_settings(data_dir, nats_url), _statuses(status), tenant, limit or None, json_output))


def _statuses(names: list[str] | None) -> "list[Status]":
    statuses = [status.upper().replace("-", "_") for status in names or ()]
    for status in statuses:
        if status not in COLOURS:
            raise BadRequest("invalid", "--status", f"--status {status}: expected one of {', '.join(COLOURS)}")
    return cast("list[Status]", statuses)


async def _list(
    settings: Settings, statuses: Sequence["Status"], tenant: str | None, limit: int | None, json_output: bool
) -> None:
    from msgspec import to_builtins

    from fleet.client.session import session

    async with session(settings) as fleet:
        summaries = await fleet.deliberations(*statuses, tenant=tenant, limit=limit)
    if json_output:
        for each in summaries:
            print_json(to_builtins(each))
    elif summaries:
        screen().print(table(summaries, datetime.now(UTC)))


def screen() -> "Console":
    """Wide enough for a table where nobody sees how wide it is."""
    terminal = console(highlight=False)
    return terminal if terminal.is_terminal else console(highlight=False, width=NOT_CUT)


def table(summaries: Sequence["Summary"], now: datetime) -> "Table":
    """One row for each deliberation."""
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("task", "status", "since", "took", "tokens", "cost"):
        shown.add_column(name, no_wrap=True, justify="right" if name in ("took", "tokens", "cost") else "left")
    shown.add_column("outcome")  # these two wrap where it is narrow, before an id is cut
    shown.add_column("question")
    for each in summaries:
        began = _time(each.accepted_at)
        shown.add_row(
            literal(key_of(each.tenant, each.task_id)),
            f"[{COLOURS.get(each.status, 'default')}]{each.status}[/]",
            began.astimezone().strftime("%m-%d %H:%M:%S") if began else "–",
            _took(each, now),
            f"{each.tokens:,}" if each.tokens is not None else "–",
            f"{each.cost:.4f}" if each.cost is not None else "–",
            literal(_short(outcome(each))),
            literal(_short(each.task_description or "")),
        )
    return shown


def outcome(each: "Summary") -> str:
    """In words: who came first, why it failed, how far it is."""
    if each.status == "IN_PROGRESS":
        if each.phase is None:
            return ""
        round_ = f" {each.round}" if each.phase in ("critique", "revise") else ""
        if each.expected == 0:
            return "waits for the result of an equal request"
        return f"{each.phase}{round_}: {each.done} of {each.expected} calls" if each.expected else each.phase
    if each.winner_id is not None:
        score = f", {each.score:.2f}" if each.score is not None else ""
        cached = f", of {each.cached_from}" if each.cached_from is not None else ""
        return f"{each.winner_id}{score}{', degraded' if each.degraded else ''}{cached}"
    return each.error or ""


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"


def _took(each: "Summary", now: datetime) -> str:
    began = _time(each.accepted_at)
    if each.duration_ms is not None:
        return f"{each.duration_ms / 1000:,.1f} s"
    return f"{max(0.0, (now - began).total_seconds()):,.0f} s" if began else "–"


def _time(at: str | None) -> datetime | None:
    return datetime.fromisoformat(at) if at else None
