"""Runs `fleet deadletter`: shows messages that nobody could handle, hands them in again, or drops them."""

import asyncio
from dataclasses import replace
from typing import Annotated, Any

import typer

from fleet.cli import options
from fleet.cli.output import print_json, say, wide_console
from fleet.local.data_dir import client_settings
from fleet.tenants.names import DEFAULT_TENANT, without_tenant

app = typer.Typer(
    help="Look at messages nobody could handle, hand them in again, or drop them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Sequence = Annotated[int, typer.Argument(metavar="SEQ", min=1, help="Its number, as `fleet deadletter list` shows it.")]


@app.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option("--tenant", metavar="TENANT", help="Only this tenant's.")] = None,
    data_dir: options.DataDir = options.DATA_DIR,
    nats_url: options.NatsUrl = None,
    json_output: options.Json = False,
) -> None:
    """List them, oldest first: those of all tenants, each with its tenant's name where there are any.

    [dim]Example:[/dim]  fleet deadletter list --json | jq .sequence
    """
    asyncio.run(_list(data_dir, nats_url, tenant, json_output))


@app.command()
def show(
    sequence: Sequence,
    data_dir: options.DataDir = options.DATA_DIR,
    nats_url: options.NatsUrl = None,
    json_output: options.Json = False,
) -> None:
    """Print one, whole: headers and body as they came.

    [dim]Example:[/dim]  fleet deadletter show 3
    """
    asyncio.run(_show(data_dir, nats_url, sequence, json_output))


@app.command()
def replay(
    sequence: Sequence,
    data_dir: options.DataDir = options.DATA_DIR,
    nats_url: options.NatsUrl = None,
    json_output: options.Json = False,
) -> None:
    """Hand one in again, as it was first sent. It stays here until it is dropped.

    A dead letter is handed in once: another replay changes nothing. If it
    cannot be handled this time either, it comes back as a new one.

    [dim]Example:[/dim]  fleet deadletter replay 3 && fleet deadletter drop 3
    """
    asyncio.run(_replay(data_dir, nats_url, sequence, json_output))


@app.command()
def drop(
    sequence: Sequence,
    data_dir: options.DataDir = options.DATA_DIR,
    nats_url: options.NatsUrl = None,
    json_output: options.Json = False,
) -> None:
    """Delete one for good.

    [dim]Example:[/dim]  fleet deadletter drop 3
    """
    asyncio.run(_drop(data_dir, nats_url, sequence, json_output))


async def _list(data_dir: Any, nats_url: str | None, tenant: str | None, json_output: bool) -> None:
    from fleet.cli.overview.fitting import Column, FittingTable
    from fleet.client import dead_letters
    from fleet.client.session import session

    async with session(client_settings(data_dir, nats_url)) as fleet:
        letters = [
            replace(letter, body=await dead_letters.whole(fleet, letter))
            async for letter in dead_letters.all_of(fleet.js)
            if tenant in (None, letter.tenant)
        ]
    if json_output:
        for letter in letters:
            print_json(letter.facts())
        return
    if not letters:
        say("no dead letters")
        return
    several = any(letter.tenant != DEFAULT_TENANT for letter in letters)
    columns = (
        Column("seq", right=True),
        *([Column("tenant", least=8)] if several else ()),
        Column("since", leaves=2),
        Column("subject", least=16),
        Column("bytes", right=True, leaves=1),
        Column("replayed"),
        Column("reason", least=28),
    )
    rows = [
        (
            str(letter.sequence),
            *([letter.tenant] if several else ()),
            letter.at,
            without_tenant(letter.original_subject),
            f"{len(letter.body):,}",
            "yes" if letter.replayed else "",
            letter.reason,
        )
        for letter in letters
    ]
    wide_console().print(FittingTable(columns, rows))


async def _show(data_dir: Any, nats_url: str | None, sequence: int, json_output: bool) -> None:
    from fleet.client import dead_letters
    from fleet.client.session import session

    async with session(client_settings(data_dir, nats_url)) as fleet:
        letter = await dead_letters.get(fleet.js, sequence)
        letter = replace(letter, body=await dead_letters.whole(fleet, letter))
    if json_output:
        print_json(letter.facts())
        return
    say(f"{letter.original_subject}, {letter.at}")
    if at := letter.replayed:
        where = f"{at['stream']} {at['sequence']}" if "stream" in at else "it broke off"
        say(f"replayed at {at['at']}: {where}")
    for name, value in letter.headers.items():
        say(f"{name}: {value}")
    say(f"\n{letter.body.decode(errors='backslashreplace')}")


async def _replay(data_dir: Any, nats_url: str | None, sequence: int, json_output: bool) -> None:
    from fleet.client import dead_letters
    from fleet.client.session import session

    async with session(client_settings(data_dir, nats_url)) as fleet:
        letter = await dead_letters.get(fleet.js, sequence)
        where = await dead_letters.replay(fleet, letter)
    if json_output:
        print_json({**where, "dead_letter": sequence, "before": letter.was_replayed})
    else:
        outcome = "was replayed before" if letter.was_replayed else "replayed"
        say(f"dead letter {sequence} {outcome}: {where['stream']} {where['sequence']}")


async def _drop(data_dir: Any, nats_url: str | None, sequence: int, json_output: bool) -> None:
    from fleet.client import dead_letters
    from fleet.client.session import session

    async with session(client_settings(data_dir, nats_url)) as fleet:
        await dead_letters.drop(fleet.js, sequence)
    if json_output:
        print_json({"dead_letter": sequence, "dropped": True})
    else:
        say(f"dead letter {sequence} dropped")
