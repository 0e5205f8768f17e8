"""Decodes calls of a micro service, refuses bad ones, and hands calls over to another instance."""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.micro.request import Request

from fleet import subjects
from fleet.jetstream.origin import may_be_answered
from fleet.messages import UNDECODABLE, decode
from fleet.observability.visible import to_json
from fleet.tenants.names import key_of, tenant_of
from fleet.undecodable import why_undecodable

_SEQUENCE = re.compile("[0-9]{1,18}")
TAKEN_OVER = "Fleet-Taken-Over"
"""Header of a request that another instance began to serve; for `ask`, what it published."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A request in its stream. A sequence is given out again by a stream that was set back, and a message id is its
    client's, who may use it again, or send an empty one: only the two together tell a request."""

    sequence: int
    message_id: str


LONGEST_SHOWN = 64
"""Characters of a bad id in an error."""
NO_RECEIPT = Receipt(0, "")
"""The task was named by its id alone, so whatever state has this id is meant."""


class ServiceFault(Exception):
    """An answer that carries `Nats-Service-Error` and `Nats-Service-Error-Code`."""

    def __init__(self, code: int, text: str, body: Any) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.body = body


class HandOver(Exception):
    """This instance goes away: another one is to answer `body`."""

    def __init__(self, body: bytes, published: Receipt = NO_RECEIPT) -> None:
        super().__init__("this instance is shutting down")
        self.body = body
        self.headers = {TAKEN_OVER: f"{published.sequence} {published.message_id}".strip()}


Replies = Callable[[Request], AsyncGenerator[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Of a micro service. `stream`: it sends several replies, and an empty message after the last one. `refused`: how
    its callers are told of a fault.
    """

    name: str
    subject: str
    replies: Replies
    stream: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    refused: Callable[[ServiceFault], ServiceFault] = lambda refused: refused


def single(answer: Callable[[Request], Awaitable[Any]]) -> Replies:
    """Of an endpoint with one reply."""

    async def replies(request: Request) -> AsyncGenerator[Any]:
        yield await answer(request)

    return replies


def fault(code: int, text: str, **facts: Any) -> ServiceFault:
    return ServiceFault(code, text, {**facts, "error": text})


def taken_over(request: Request) -> Receipt | None:
    """What another instance says of a request that it began to serve; None for a caller's own."""
    sequence, _, message_id = (request.headers or {}).get(TAKEN_OVER, "").partition(" ")
    return Receipt(int(sequence), message_id) if _SEQUENCE.fullmatch(sequence) else None


def key_in(request: Request, task_id: str) -> str:
    """The key of the caller's task with this id. Faults 400 for what is no id: nobody names another tenant's task."""
    if not subjects.is_task_id(task_id):
        shown = to_json(task_id if len(task_id) <= LONGEST_SHOWN else f"{task_id[:LONGEST_SHOWN]}…")
        raise fault(400, f"bad request: $.task_id: expected 1 to 64 letters, digits, `_` or `-`, got {shown}")
    return key_of(tenant_of(request.subject), task_id)


def decoded(data: bytes, kind: type[Any]) -> Any:
    """A JSON object, or a bare task id, quoted or not. Faults 400."""
    text = data.strip()
    if text in (b"", b'""'):
        raise fault(400, "bad request: an empty body names no task: send its id, or an object with `task_id`")
    try:
        if text[:1] == b"{":
            return decode(text, kind)
        return kind(task_id=decode(text, str) if text[:1] == b'"' else text.decode())
    except UNDECODABLE as error:
        raise fault(400, f"bad request: {why_undecodable(error, text)}") from None


def task_id_of(data: bytes) -> str | None:
    try:
        body = msgspec.json.decode(data)
    except UNDECODABLE:
        return None
    task_id = body.get("task_id") if isinstance(body, dict) else None
    return task_id if isinstance(task_id, str) else None


def answered_only(answer: Callable[[Msg], Awaitable[None]]) -> Callable[[Msg], Awaitable[None]]:
    """nats-py's own `$SRV` handlers reply wherever they are told to."""

    async def guarded(msg: Msg) -> None:
        if may_be_answered(msg.reply):
            await answer(msg)

    return guarded
