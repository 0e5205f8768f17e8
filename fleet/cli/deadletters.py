"""`fleet deadletter`: messages nobody could handle, to be looked at, handed in again, or dropped."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from fleet import subjects
from fleet.cli import options
from fleet.cli.output import console, print_json, say
from fleet.clock import now_ms
from fleet.errors import BadRequest, FleetError
from fleet.local.data_dir import client_settings
from fleet.times import from_rfc3339, rfc3339

app = typer.Typer(
    help="Look at messages nobody could handle, hand them in again, or drop them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Sequence = Annotated[int, typer.Argument(metavar="SEQ", min=1, help="Its number, as `fleet deadletter list` shows it.")]

_OWN_HEADERS = "Dead-Letter-"
_MESSAGE_ID = "Nats-Msg-Id"
NOTED_MEANWHILE = 10071
"""JetStream's code for `wrong last sequence`."""
MARGIN_S = 20.0
"""How long a publish may take, and clocks differ."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message of the stream `DEAD_LETTERS`, `headers` as stored. `replayed`: where to and when, if it was."""

    sequence: int
    subject: str
    headers: dict[str, str]
    body: bytes
    at: str
    replayed: dict[str, Any] | None = None

    @property
    def original_subject(self) -> str:
        return self.subject.removeprefix(f"{subjects.DEADLETTER}.")

    @property
    def reason(self) -> str:
        return self.headers.get("Dead-Letter-Reason", "")

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "sequence": self.sequence,
            "subject": self.original_subject,
            "at": self.at,
            "headers": self.headers,
            "body": self.body.decode(errors="replace"),
            "replayed": self.replayed,
        }


@app.command("list")
def list_(
    data_dir: options.DataDir = options.DATA_DIR,
    nats_url: options.NatsUrl = None,
    json_output: options.Json = False,
) -> None:
    """List them, oldest first.

    [dim]Example:[/dim]  fleet deadletter list --json | jq .sequence
    """
    asyncio.run(_list(data_dir, nats_url, json_output))


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


def replayed_headers(headers: dict[str, str], sequence: int) -> dict[str, str]:
    """The original's headers, and an id by which NATS recognises a second replay of the same dead letter."""
    kept = {name: value for name, value in headers.items() if not name.startswith(_OWN_HEADERS)}
    return {**kept, _MESSAGE_ID: f"replay.{sequence}"}


async def _list(data_dir: Any, nats_url: str | None, json_output: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from fleet.client.session import session

    async with session(client_settings(data_dir, nats_url)) as fleet:
        letters = [replace(letter, body=await _whole(fleet, letter)) async for letter in _all(fleet.js)]
    if json_output:
        for letter in letters:
            print_json(letter.facts())
        return
    if not letters:
        say("no dead letters")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("seq", "since", "subject", "bytes", "replayed", "reason"):
        table.add_column(title, justify="right" if title in ("seq", "bytes") else "left", no_wrap=title != "reason")
    for letter in letters:
        table.add_row(
            str(letter.sequence),
            letter.at,
            Text(letter.original_subject),
            f"{len(letter.body):,}",
            "yes" if letter.replayed else "",
            Text(letter.reason.strip()),
        )
    console().print(table)


async def _show(data_dir: Any, nats_url: str | None, sequence: int, json_output: bool) -> None:
    from fleet.client.session import session

    async with session(client_settings(data_dir, nats_url)) as fleet:
        letter = await _get(fleet.js, sequence)
        letter = replace(letter, body=await _whole(fleet, letter))
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
    from fleet.client.session import session

    async with session(client_settings(data_dir, nats_url)) as fleet:
        letter = await _get(fleet.js, sequence)
        before = letter.replayed is not None and "stream" in letter.replayed
        where = letter.replayed if before and letter.replayed else await _hand_in(fleet, letter)
    if json_output:
        print_json({**where, "dead_letter": sequence, "before": before})
    else:
        outcome = "was replayed before" if before else "replayed"
        say(f"dead letter {sequence} {outcome}: {where['stream']} {where['sequence']}")


async def _hand_in(fleet: Any, letter: DeadLetter) -> dict[str, Any]:
    """Once: the note comes first, and says where to when that is known. One that broke off in between is done again for
    as long as NATS would recognise the message, and not after that."""
    from nats.js.errors import APIError

    from fleet.jetstream.lifetimes import DUPLICATE_WINDOW_S

    body = await _whole(fleet, letter)
    if letter.body != body and fleet.texts.too_large(body):
        text = f"dead letter {letter.sequence} has {len(body)} bytes, too many to be handed in with headers"
        raise BadRequest("too_large", "$", text)
    note = subjects.replayed(letter.sequence)
    begun_at = await _begin(fleet.js, letter, note)
    if now_ms() - from_rfc3339(begun_at) > (DUPLICATE_WINDOW_S - MARGIN_S) * 1000:
        raise FleetError(
            f"a replay of dead letter {letter.sequence} began at {begun_at} and broke off: nobody knows whether it was "
            f"handed in. If it was not, publish its body to {letter.original_subject}; then drop it"
        )
    try:
        ack = await fleet.js.publish(
            letter.original_subject, body, headers=replayed_headers(letter.headers, letter.sequence)
        )
    except APIError:  # refused, and not stored
        await fleet.js.purge_stream(subjects.DEAD_LETTERS, subject=note)
        raise
    done = {"stream": ack.stream, "sequence": ack.seq, "at": begun_at}
    await fleet.js.publish(note, json.dumps(done).encode())
    return done


async def _begin(js: Any, letter: DeadLetter, note: str) -> str:
    """When the first replay of this letter began: now, unless one broke off. Of two at once one is refused."""
    from nats.js.errors import APIError

    if letter.replayed is not None:
        return str(letter.replayed["at"])
    at = rfc3339(now_ms())
    try:
        await js.publish(note, json.dumps({"at": at}).encode(), headers={"Nats-Expected-Last-Subject-Sequence": "0"})
    except APIError as error:
        if error.err_code != NOTED_MEANWHILE:
            raise
        raise FleetError(f"somebody else replays dead letter {letter.sequence} just now") from None
    return at


async def _drop(data_dir: Any, nats_url: str | None, sequence: int, json_output: bool) -> None:
    from fleet.client.session import session

    async with session(client_settings(data_dir, nats_url)) as fleet:
        await _get(fleet.js, sequence)
        await fleet.js.delete_msg(subjects.DEAD_LETTERS, sequence)
        await fleet.js.purge_stream(subjects.DEAD_LETTERS, subject=subjects.replayed(sequence))
    if json_output:
        print_json({"dead_letter": sequence, "dropped": True})
    else:
        say(f"dead letter {sequence} dropped")


def _is_note(letter: DeadLetter) -> bool:
    return letter.subject.startswith(subjects.replayed(""))


async def _whole(fleet: Any, letter: DeadLetter) -> bytes:
    """The body, wherever it lies; as it was stored where its text is gone, or it only looks like a reference."""
    from fleet.jetstream.payloads import MissingText
    from fleet.messages import UNDECODABLE

    try:
        body: bytes = await fleet.texts.inline(letter.body)
    except (MissingText, *UNDECODABLE):
        return letter.body
    return body


async def _all(js: Any) -> AsyncIterator[DeadLetter]:
    state = (await js.stream_info(subjects.DEAD_LETTERS)).state
    sequence = state.first_seq
    while sequence <= state.last_seq and state.messages:
        letter = await _at(js, sequence, "next")
        if letter is None:
            return
        if not _is_note(letter):
            yield replace(letter, replayed=await _noted(js, letter.sequence))
        sequence = letter.sequence + 1


async def _get(js: Any, sequence: int) -> DeadLetter:
    letter = await _at(js, sequence)
    if letter is None or _is_note(letter):
        raise BadRequest("unknown", "$", f"there is no dead letter {sequence}: see `fleet deadletter list`")
    return replace(letter, replayed=await _noted(js, sequence))


async def _noted(js: Any, sequence: int) -> dict[str, Any] | None:
    from nats.js.errors import NotFoundError

    try:
        note = await js.get_last_msg(subjects.DEAD_LETTERS, subjects.replayed(sequence))
    except NotFoundError:
        return None
    found: dict[str, Any] = json.loads(note.data)
    return found


async def _at(js: Any, sequence: int, which: str | None = None) -> DeadLetter | None:
    """The dead letter with this number; with `which` "next" the first one from there on."""
    from nats.js.errors import NotFoundError

    await js.stream_info(subjects.DEAD_LETTERS)  # its absence is another error than the message's
    more = {"next": True, "subject": f"{subjects.DEADLETTER}.>"} if which == "next" else {}
    try:
        stored = await js.get_msg(subjects.DEAD_LETTERS, sequence, **more)
    except NotFoundError:
        return None
    at = stored.time
    return DeadLetter(
        sequence=stored.seq,
        subject=stored.subject,
        headers=dict(stored.headers or {}),
        body=stored.data or b"",
        at=at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else "",
    )
