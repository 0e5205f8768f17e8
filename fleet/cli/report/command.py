"""Runs `fleet report`."""

import asyncio
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

from fleet.cli import options
from fleet.cli.client import OF_EVENT, unknown
from fleet.cli.output import console, say
from fleet.config import Settings
from fleet.errors import FleetError
from fleet.exits import Exit
from fleet.local.data_dir import client_settings
from fleet.messages import encode
from fleet.observability.visible import json_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fleet.messages import TerminalEvent


class Format(StrEnum):
    MD = "md"
    HTML = "html"
    JSON = "json"


_OF_SUFFIX = {".html": Format.HTML, ".htm": Format.HTML, ".json": Format.JSON}


def report(
    task_id: options.TaskId,
    format_: Annotated[
        Format | None,
        typer.Option("--format", help="Markdown, one HTML file, or the result as JSON. Default: as --out ends."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write there. Default: standard output.")
    ] = None,
    older: options.Older = False,
    data_dir: options.DataDir = options.DATA_DIR,
    nats_url: options.NatsUrl = None,
    json_output: options.Json = False,
) -> None:
    """Write a deliberation down for somebody who has never heard of the fleet.

    Question, verdict and how sure it is, reasons, dissent, every text, what
    each revision changed, scores, checks, cost. The HTML is one file that loads
    nothing and runs nothing. A terminal shows it laid out, unless --format asks
    for the Markdown itself. Exit status 4 says that it has not ended yet.

    [dim]Example:[/dim]  fleet report d-17 --out d-17.html
    """
    chosen = Format.JSON if json_output else format_ or _OF_SUFFIX.get(out.suffix.lower() if out else "", Format.MD)
    event = asyncio.run(_end(client_settings(data_dir, nats_url), task_id, older))
    if event is None:
        say(f"{task_id} has not ended yet: fleet watch {task_id}", stderr=True)
        raise typer.Exit(Exit.UNFINISHED)
    text = rendered(event, chosen)
    if out is None:
        if chosen is Format.MD and format_ is None and sys.stdout.isatty():
            console().print(for_people(text))
        else:
            say(text.removesuffix("\n"))
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FleetError(f"cannot write {out}: {error.strerror}") from None
    say(f"written to {out}", stderr=True)


def rendered(event: "TerminalEvent", chosen: Format) -> str:
    """The report in one of its formats."""
    from fleet.cli.report import html, markdown, writing

    match chosen:
        case Format.HTML:
            return html.render(writing.document(event))
        case Format.MD:
            return markdown.render(writing.document(event))
        case Format.JSON:
            return json_text(encode(event)) + "\n"
        case _:
            assert_never(chosen)


def for_people(text: str) -> "RenderableType":
    """The Markdown as a terminal shows it: laid out, and without the signs that keep it from being more than text."""
    from rich.markdown import Markdown

    return Markdown(text, hyperlinks=False)


async def _end(settings: Settings, task_id: str, older: bool) -> "TerminalEvent | None":
    """The terminal event with all its texts; None before it. Raises `BadRequest` for a task that nobody knows."""
    from fleet.client.connection import is_tenants
    from fleet.client.session import session
    from fleet.messages import ResultReply, decode

    async with session(settings) as fleet:
        body, of_event = await fleet.stored_body(task_id, older=older)
        reply = decode(body, ResultReply)
        if reply.status == "UNKNOWN":
            raise unknown(task_id, older or await is_tenants(fleet.nc))
        if of_event:
            say(OF_EVENT.format(task_id), stderr=True)
        return None if reply.result is None else await fleet.with_texts(reply.result)
