"""Runs `fleet list`: deliberations that run and that have ended."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, cast

import typer

from fleet.cli import options
from fleet.cli.output import print_json, wide_console
from fleet.config import Settings
from fleet.errors import BadRequest
from fleet.local.data_dir import client_settings
from fleet.tenants.names import key_of

if TYPE_CHECKING:
    from fleet.cli.overview.fitting import FittingTable
    from fleet.client.listing import Summary
    from fleet.messages import Status

DEFAULT_LIMIT = 50
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
        wide_console().print(table(summaries, datetime.now(UTC)))


def table(summaries: Sequence["Summary"], now: datetime) -> "FittingTable":
    """One line for each deliberation."""
    from fleet.cli.overview.fitting import Column, FittingTable
    from fleet.messages.end_summary import one_line

    columns = (
        Column("task", least=16, ends_differ=True),
        Column("status"),
        Column("since", leaves=4),
        Column("took", right=True, leaves=3),
        Column("tokens", right=True, leaves=2),
        Column("cost", right=True, leaves=1),
        Column("outcome", least=14),
        Column("question", least=14),
    )
    rows = []
    for each in summaries:
        began = _time(each.accepted_at)
        rows.append(
            (
                key_of(each.tenant, each.task_id),
                (each.status, COLOURS.get(each.status, "")),
                began.astimezone().strftime("%m-%d %H:%M") if began else "–",
                _took(each, now),
                f"{each.tokens:,}" if each.tokens is not None else "–",
                f"{each.cost:.4f}" if each.cost is not None else "–",
                one_line(outcome(each)),
                one_line(each.task_description or ""),
            )
        )
    return FittingTable(columns, rows)


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


def _took(each: "Summary", now: datetime) -> str:
    began = _time(each.accepted_at)
    if each.duration_ms is not None:
        return f"{each.duration_ms / 1000:,.1f} s"
    return f"{max(0.0, (now - began).total_seconds()):,.0f} s" if began else "–"


def _time(at: str | None) -> datetime | None:
    return datetime.fromisoformat(at) if at else None
