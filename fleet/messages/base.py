"""Encodes and decodes messages: immutable structs as JSON; unknown fields are ignored."""

from functools import cache
from typing import Annotated, Any, Literal, Self, TypeVar, cast

import msgspec
from msgspec import Meta, Struct

Phase = Literal["propose", "critique", "revise", "score", "vote", "compare", "choose", "synthesise"]
Priority = Literal["low", "normal", "high"]
Status = Literal["PENDING", "IN_PROGRESS", "COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "UNKNOWN"]
Timestamp = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""RFC 3339 in UTC with milliseconds."""

T = TypeVar("T")

UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Raised by `decode` for bytes that are no such message."""


class Message(Struct, frozen=True, kw_only=True):
    """Base of everything on the wire. Unknown fields are ignored, so that versions can run side by side."""

    def change(self, **fields: Any) -> Self:
        """A copy with some fields replaced."""
        return msgspec.structs.replace(self, **fields)


class ContentRef(Message, frozen=True, kw_only=True):
    """Where a text or body lies that does not fit one NATS message: an object of the object store."""

    bucket: str
    name: str
    bytes: int


_encoder = msgspec.json.Encoder()


def encode(message: Any) -> bytes:
    """JSON, UTF-8."""
    return _encoder.encode(message)


@cache
def decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """One compiled decoder per type."""
    return msgspec.json.Decoder(kind)


def decode(data: bytes, kind: type[T]) -> T:
    """Raises `msgspec.MsgspecError` (or `UnicodeDecodeError`) for what is no such message."""
    decoded: T = decoder(cast(Any, kind)).decode(data)
    return decoded
