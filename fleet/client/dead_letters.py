"""Reads dead letters for a client, hands each in again once, or drops it."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from msgspec import Struct, structs
from nats.js import JetStreamContext
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from fleet import subjects
from fleet.client.connection import Caller
from fleet.clock import now_ms
from fleet.errors import BadRequest, FleetError
from fleet.jetstream.compare_and_set import store_after
from fleet.jetstream.lifetimes import DUPLICATE_WINDOW_S
from fleet.jetstream.payloads import MissingText
from fleet.messages import UNDECODABLE
from fleet.tenants.names import DEFAULT_TENANT, name_of, tenant_of
from fleet.times import from_rfc3339, rfc3339

_OWN_HEADERS = "Dead-Letter-"
_MESSAGE_ID = "Nats-Msg-Id"
MARGIN_S = 20.0
"""How long a publish may take, and clocks differ."""


class _Note(Struct, frozen=True):
    """Of a replay; of one that broke off, only when it began."""

    at: str
    stream: str | None = None
    sequence: int | None = None


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
    def tenant(self) -> str:
        """Whose it was: as its subject says, and for what goes on inside the fleet the key of its task."""
        subject = self.original_subject
        if (tenant := tenant_of(subject)) != DEFAULT_TENANT or subject.startswith("deliberation."):
            return tenant
        return name_of(self.headers.get("Task-Id", "")).tenant

    @property
    def was_replayed(self) -> bool:
        """Not where it broke off, as far as is known."""
        return self.replayed is not None and "stream" in self.replayed

    @property
    def reason(self) -> str:
        return self.headers.get("Dead-Letter-Reason", "")

    def facts(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "sequence": self.sequence,
            "subject": self.original_subject,
            "tenant": self.tenant,
            "at": self.at,
            "headers": self.headers,
            "body": self.body.decode(errors="replace"),
            "replayed": self.replayed,
        }


def replayed_headers(headers: dict[str, str], sequence: int) -> dict[str, str]:
    """The original's headers, and an id by which NATS recognises a second replay of the same dead letter."""
    kept = {name: value for name, value in headers.items() if not name.startswith(_OWN_HEADERS)}
    return {**kept, _MESSAGE_ID: f"replay.{sequence}"}


async def replay(fleet: Caller, letter: DeadLetter) -> dict[str, Any]:
    """Hands it in again; where to and when. Raises `FleetError` where nobody knows whether that was done before.

    Once: the note comes first, and says where to when that is known. One that broke off in between is done again for as
    long as NATS would recognise the message, and not after that.
    """
    if letter.was_replayed and letter.replayed:
        return letter.replayed
    body = await whole(fleet, letter)
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
    except (APIError, NoStreamResponseError) as error:  # refused, and not stored
        await fleet.js.purge_stream(subjects.DEAD_LETTERS, subject=note)
        if isinstance(error, APIError):
            raise
        text = f"no stream takes {letter.original_subject}: dead letter {letter.sequence} is not the fleet's"
        raise BadRequest("unknown", "$", text) from None
    done = {"stream": ack.stream, "sequence": ack.seq, "at": begun_at}
    await fleet.js.publish(note, json.dumps(done).encode())
    return done


async def _begin(js: JetStreamContext, letter: DeadLetter, note: str) -> str:
    """When the first replay of this letter began: now, unless one broke off. Of two at once one is refused."""
    if letter.replayed is not None:
        return str(letter.replayed["at"])
    at = rfc3339(now_ms())
    if await store_after(js, note, json.dumps({"at": at}).encode(), 0) is None:
        raise FleetError(f"somebody else replays dead letter {letter.sequence} just now")
    return at


async def drop(js: JetStreamContext, sequence: int) -> None:
    """For good, with the note of its replay. Raises `BadRequest` where there is none of this number."""
    await get(js, sequence)
    await js.delete_msg(subjects.DEAD_LETTERS, sequence)
    await js.purge_stream(subjects.DEAD_LETTERS, subject=subjects.replayed(sequence))


def _is_note(letter: DeadLetter) -> bool:
    return letter.subject.startswith(subjects.replayed(""))


async def whole(fleet: Caller, letter: DeadLetter) -> bytes:
    """The body, wherever it lies; as it was stored where its text is gone, or it only looks like a reference."""
    try:
        body: bytes = await fleet.texts.inline(letter.body)
    except (MissingText, *UNDECODABLE):
        return letter.body
    return body


async def all_of(js: JetStreamContext, newest: int | None = None) -> AsyncIterator[DeadLetter]:
    """Yields all dead letters, oldest first; `newest`: those among the last so many messages of their stream."""
    state = (await js.stream_info(subjects.DEAD_LETTERS)).state
    sequence = state.first_seq if newest is None else max(state.first_seq, state.last_seq - newest + 1)
    while sequence <= state.last_seq and state.messages:
        letter = await _at(js, sequence, onwards=True)
        if letter is None:
            return
        if not _is_note(letter):
            yield replace(letter, replayed=await _noted(js, letter.sequence))
        sequence = letter.sequence + 1


async def get(js: JetStreamContext, sequence: int) -> DeadLetter:
    """Raises `BadRequest` where there is none of this number."""
    letter = await _at(js, sequence)
    if letter is None or _is_note(letter):
        raise BadRequest("unknown", "$", f"there is no dead letter {sequence}: see `fleet deadletter list`")
    return replace(letter, replayed=await _noted(js, sequence))


async def _noted(js: JetStreamContext, sequence: int) -> dict[str, Any] | None:
    """What somebody else has put there is no note: of the letter nothing is known."""
    try:
        note = await js.get_last_msg(subjects.DEAD_LETTERS, subjects.replayed(sequence))
        found = msgspec.json.decode(note.data or b"", type=_Note)
        from_rfc3339(found.at)
    except (NotFoundError, ValueError, *UNDECODABLE):
        return None
    return {name: value for name, value in structs.asdict(found).items() if value is not None}


async def _at(js: JetStreamContext, sequence: int, *, onwards: bool = False) -> DeadLetter | None:
    """The dead letter with this number; `onwards`: the first one from there on."""
    await js.stream_info(subjects.DEAD_LETTERS)  # its absence is another error than the message's
    try:
        stored = await js.get_msg(
            subjects.DEAD_LETTERS, sequence, next=onwards, subject=f"{subjects.DEADLETTER}.>" if onwards else None
        )
    except NotFoundError:
        return None
    at = stored.time
    return DeadLetter(
        sequence=stored.seq or sequence,
        subject=stored.subject or "",
        headers=dict(stored.headers or {}),
        body=stored.data or b"",
        at=at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else "",
    )
