"""Runs `fleet models`: what shares and shadows have shown of models, from the results that are stored."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli import options
from fleet.cli.output import print_json, say, wide_console
from fleet.config import Settings
from fleet.local.data_dir import client_settings

if TYPE_CHECKING:
    from fleet.cli.models.reading import Council, ModelReport
    from fleet.cli.overview.fitting import FittingTable
    from fleet.client.session import Session

AT_ONCE = 16
"""Results that are read at the same time."""


def models(
    role: Annotated[str | None, typer.Option("--role", metavar="ROLE", help="Only this role's.")] = None,
    data_dir: options.DataDir = options.DATA_DIR,
    nats_url: options.NatsUrl = None,
    json_output: options.Json = False,
) -> None:
    """Compare models by the results that are stored: those that share a role's calls, and those on trial.

    Each model of a role is compared with the role's usual one by what the same reviewers gave to both, in points of 10.
    A reviewer's taste for its own model is taken out. The 95 % interval holds however often you look. With --json each
    model is one line.

    [dim]Example:[/dim]  fleet models --role DEV
    """
    asyncio.run(_models(client_settings(data_dir, nats_url), role.upper() if role else None, json_output))


async def _models(settings: Settings, role: str | None, json_output: bool) -> None:
    from fleet.cli.models.reading import reports
    from fleet.client.session import session

    async with session(settings) as fleet, aclosing(_councils(fleet)) as councils:
        found = list(reports([council async for council in councils], role))
    if json_output:
        for each in found:
            print_json(fields(each))
    elif found:
        wide_console().print(_table(found))
    else:
        say("no result that is stored tells of a model in such a role")


async def _councils(fleet: "Session") -> AsyncGenerator["Council", None]:
    """Of every completed deliberation that the stream holds, some at a time: a result may be a megabyte."""
    from fleet import subjects
    from fleet.jetstream.history import events

    told = events(fleet.js, (subjects.COMPLETED,), None, headers_only=True, may_delete=False)
    async with aclosing(told) as ended:
        sequences = [msg.metadata.sequence.stream async for msg in ended]
    for start in range(0, len(sequences), AT_ONCE):
        for council in await asyncio.gather(*(_council(fleet, each) for each in sequences[start : start + AT_ONCE])):
            if council is not None:
                yield council


async def _council(fleet: "Session", sequence: int) -> "Council | None":
    """None for what cannot be read, is gone meanwhile, or was another task's result before."""
    from nats.js.errors import NotFoundError

    from fleet import subjects
    from fleet.cli.models.reading import council_of
    from fleet.jetstream.payloads import MissingText
    from fleet.messages import UNDECODABLE, DeliberationCompleted, decode

    try:
        msg = await fleet.js.get_msg(subjects.DELIBERATIONS, sequence)
        event = decode(await fleet.texts.inline(msg.data or b""), DeliberationCompleted)
    except (NotFoundError, MissingText, *UNDECODABLE):
        return None
    return council_of(event) if event.cached_from is None else None


def fields(report: "ModelReport") -> dict[str, object]:
    """As `--json` shows it."""
    told: dict[str, object] = {
        name: getattr(report, name) for name in ("role", "model", "proposals", "shadows", "score", "usual")
    }
    compared = report.compared
    names = ("deliberations", "difference", "low", "high", "taste", "taste_error", "verdict")
    return told | {name: getattr(compared, name) if compared is not None else None for name in names}


def _table(reports: Sequence["ModelReport"]) -> "FittingTable":
    from fleet.cli.overview.fitting import Column, FittingTable

    columns = (
        Column("role"),
        Column("model", least=14, ends_differ=True),
        Column("proposals", right=True, leaves=2),
        Column("score", right=True, leaves=3),
        Column("compared in", right=True, leaves=4),
        Column("better by", right=True),
        Column("95 %", right=True),
        Column("taste", right=True, leaves=1),
        Column("verdict", least=20),
    )
    return FittingTable(columns, [_row(each) for each in reports])


def _row(report: "ModelReport") -> tuple[str, ...]:
    score = "–" if report.score is None else f"{report.score:.2f}"
    proposals = f"{report.proposals}" + (" (on trial)" if report.shadows else "")
    begin = (report.role, report.model, proposals, score)
    one = report.compared
    if one is None:
        return (*begin, "", "", "", "", "usual" if report.model == report.usual else "nobody scored both")
    interval = "too few" if one.low is None or one.high is None else f"{one.low:+.2f} … {one.high:+.2f}"
    taste = f"{one.taste:+.2f} ± {one.taste_error:.2f}"
    return (*begin, str(one.deliberations), f"{one.difference:+.2f}", interval, taste, one.verdict)
