"""Runs the commands for a running fleet: ask, submit, watch, result, cancel."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Annotated, Any

import typer

from fleet.cli import options
from fleet.cli.output import console, print_json, say
from fleet.config import Settings
from fleet.errors import BadRequest
from fleet.exits import Exit
from fleet.local.data_dir import client_settings

OF_EVENT = "the state of {} is no longer stored, and its id is free: this is what its event says"


@options.takes_request
def ask(
    body: dict[str, Any],
    data_dir: options.DataDir = options.DATA_DIR,
    nats_url: options.NatsUrl = None,
    json_output: options.Json = False,
) -> None:
    """Put a task to a running fleet, watch its agents work, and get the ranking and the winning text.

    The task's id is told first, on standard error. Ctrl-C leaves the fleet at
    work and says how to go on; a second one cancels the task. With --json the
    terminal event is all that standard output gets.

    [dim]Examples:[/dim]  fleet ask "Design a rate limiter" --role ARCHITECT --rubric correctness=3 --rubric cost=1
               fleet ask "Review this design" --file design.md
               git diff | fleet ask -
    """
    raise typer.Exit(asyncio.run(_ask(client_settings(data_dir, nats_url), body, json_output)))


@options.takes_request
def submit(
    body: dict[str, Any],
    data_dir: options.DataDir = options.DATA_DIR,
    nats_url: options.NatsUrl = None,
    json_output: options.Json = False,
) -> None:
    """Hand a task to the fleet and print its id, without waiting for the answer.

    The request is safe once the id is printed, also when no component runs at
    the moment.

    [dim]Examples:[/dim]  id=$(fleet submit "Design a rate limiter") && fleet result "$id" --wait 120
               fleet submit --file request.json
    """
    asyncio.run(_submit(client_settings(data_dir, nats_url), body, json_output))


def watch(
    task_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="Only this task, from its beginning to its end.")
    ] = None,
    progress: Annotated[
        bool | None,
        typer.Option("--progress/--no-progress", help="Also the text as it is written. Default: only with an ID."),
    ] = None,
    data_dir: options.DataDir = options.DATA_DIR,
    nats_url: options.NatsUrl = None,
    json_output: options.Json = False,
) -> None:
    """Print events as they come: of one task from its beginning, or of all from now on.

    With an ID it ends with the task, and its exit status tells the outcome. An
    ID that nobody knows is waited for, which standard error says.
    With --json each event is one line, {"subject": …, "at": …, "event": …}.

    [dim]Example:[/dim]  fleet watch --json | jq -c 'select(.subject == "deliberation.completed")'
    """
    from fleet.cli.watching import watch_events

    with_progress = task_id is not None if progress is None else progress
    status = asyncio.run(
        watch_events(client_settings(data_dir, nats_url), task_id, progress=with_progress, json_output=json_output)
    )
    raise typer.Exit(status)


def result(
    task_id: options.TaskId,
    wait: Annotated[
        float, typer.Option("--wait", "-w", min=0, max=300, metavar="SECONDS", help="Wait so long for the end.")
    ] = 0,
    older: options.Older = False,
    data_dir: options.DataDir = options.DATA_DIR,
    nats_url: options.NatsUrl = None,
    json_output: options.Json = False,
) -> None:
    """Show where a task stands, or its ranking and winning text once it has ended.

    Exit status 4 says that it has not ended yet, 2 that nobody knows it.

    [dim]Example:[/dim]  fleet result d-17 --wait 60 --json | jq -r .result.results[0].proposal.content
    """
    raise typer.Exit(asyncio.run(_result(client_settings(data_dir, nats_url), task_id, wait, older, json_output)))


def cancel(
    task_id: options.TaskId,
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Kept in the terminal event.")] = None,
    data_dir: options.DataDir = options.DATA_DIR,
    nats_url: options.NatsUrl = None,
    json_output: options.Json = False,
) -> None:
    """Stop a task and free the GPU it uses.

    Exit status 2 says that nobody knows the task, or that it had ended before.

    [dim]Example:[/dim]  fleet cancel d-17 --reason "superseded by d-18"
    """
    asyncio.run(_cancel(client_settings(data_dir, nats_url), task_id, reason, json_output))


async def _ask(settings: Settings, body: dict[str, Any], json_output: bool) -> int:
    """`deliberate`, with Ctrl-C as an interrupt."""
    from fleet.cli.interrupts import interruptible

    body = _named(body)
    published = asyncio.Event()
    waiting = deliberate(settings, body, json_output=json_output, on_published=published.set)
    return await interruptible(waiting, settings, body["task_id"], published)


def _named(body: dict[str, Any]) -> dict[str, Any]:
    """With an id, so that whoever asked can ask again."""
    return {"task_id": f"ask-{secrets.token_hex(4)}", **body}


async def deliberate(
    settings: Settings, body: dict[str, Any], *, json_output: bool, on_published: Callable[[], None] = lambda: None
) -> int:
    """Asks, shows the agents at work on standard error and the outcome on standard output; returns the exit status."""
    from fleet.cli.view import Board, show_outcome
    from fleet.client.session import check, session, terminal_event
    from fleet.messages import DeliberationCompleted

    body = _named(body)
    board = Board(console(stderr=True))
    async with session(settings) as fleet:
        check(body)
        say(f"task {body['task_id']}", stderr=True)
        on_published()
        if json_output:
            answer = await fleet.ask_body(body, lambda event: None)
            print_json(answer)
            event = terminal_event(answer)
        else:
            with board.live():
                event = terminal_event(await fleet.ask_body(body, board.on_event))
            show_outcome(console(), event, await fleet.winning_text(event))
    return Exit.DONE if isinstance(event, DeliberationCompleted) else Exit.FAILED


async def _submit(settings: Settings, body: dict[str, Any], json_output: bool) -> None:
    from fleet.client.session import session

    async with session(settings) as fleet:
        receipt = await fleet.submit_body(body)
    if json_output:
        facts = {"task_id": receipt.task_id, "stream_sequence": receipt.stream_sequence, "duplicate": receipt.duplicate}
        print_json(facts)
    else:
        say(receipt.task_id)


async def _result(settings: Settings, task_id: str, wait_s: float, older: bool, json_output: bool) -> int:
    from fleet.cli.view import show_outcome
    from fleet.client.connection import is_tenants
    from fleet.client.session import session
    from fleet.messages import DeliberationCompleted, ResultReply, decode

    async with session(settings) as fleet:
        body, of_event = await fleet.stored_body(task_id, wait_s, older=older)
        reply = decode(body, ResultReply)
        text = await fleet.winning_text(reply.result) if reply.result and not json_output else None
        older = older or (reply.status == "UNKNOWN" and await is_tenants(fleet.nc))  # it sees no events
    if of_event:
        say(OF_EVENT.format(task_id), stderr=True)
    if json_output:
        print_json(body)
    elif reply.result:
        show_outcome(console(), reply.result, text)
    elif reply.status == "UNKNOWN":
        raise unknown(task_id, older)
    else:
        say(_standing(task_id, reply.status, reply.progress))
    if reply.result:
        return Exit.DONE if isinstance(reply.result, DeliberationCompleted) else Exit.FAILED
    return Exit.BAD_REQUEST if reply.status == "UNKNOWN" else Exit.UNFINISHED


def unknown(task_id: str, older: bool) -> BadRequest:
    """`older`: its events were looked for among all."""
    text = f"nobody knows a task {task_id!r}: not accepted yet, no longer stored, or misspelt"
    return BadRequest("unknown", "$.task_id", text if older else f"{text} (--older looks through more events)")


def _standing(task_id: str, status: str, progress: Any) -> str:
    if progress is None:
        return f"{task_id}: {status}"
    return (
        f"{task_id}: {status}, {progress.phase} of round {progress.round}: {progress.done} of {progress.expected} calls"
    )


async def _cancel(settings: Settings, task_id: str, reason: str | None, json_output: bool) -> None:
    from msgspec import to_builtins

    from fleet.client.session import ServiceError, session

    async with session(settings) as fleet:
        try:
            reply = await fleet.cancel(task_id, reason)
        except ServiceError as error:
            if json_output and error.body:
                print_json(error.body)
                raise typer.Exit(Exit.BAD_REQUEST) from None
            why = "nothing to cancel" if error.code in (404, 409) else f"{task_id} was not cancelled"
            raise BadRequest("cancel", "$.task_id", f"{why}: {error}") from None
    if json_output:
        print_json(to_builtins(reply))
    else:
        say(f"{task_id}: cancelled")
