"""A request too long for one message: `{"content_ref": {"name": …}}`, and its body in the object store."""

from typing import Any

import msgspec

from fleet import subjects
from fleet.errors import BadRequest
from fleet.jetstream.payloads import ContentRef, MissingText, Texts
from fleet.messages import UNDECODABLE, Message, encode

FIELD = "content_ref"


class RequestRef(Message, frozen=True, kw_only=True):
    """`content_ref` as a client sends it."""

    name: str
    bucket: str = subjects.TEXTS
    bytes: int | None = None


async def whole_request(data: bytes, sequence: int, texts: Texts) -> bytes:
    """The request, wherever it lies. Fields beside `content_ref` come before those of the object.

    Raises `BadRequest` for a reference that leads nowhere. What is no JSON is returned as it is.
    """
    beside = _object(data) if f'"{FIELD}"'.encode() in data else None
    if beside is None or beside.get(FIELD) is None:
        return data
    given = beside.pop(FIELD)
    try:
        ref = msgspec.convert(given, RequestRef)
        if ref.bucket != subjects.TEXTS:
            raise MissingText(f"the bucket is {subjects.TEXTS}, not {ref.bucket}")
        body = await texts.get(ContentRef(bucket=ref.bucket, name=ref.name, bytes=ref.bytes or 0))
    except (msgspec.ValidationError, MissingText) as error:
        task_id = beside.get("task_id")
        named = task_id if isinstance(task_id, str) else f"d-{sequence}"
        raise BadRequest("invalid", f"$.{FIELD}", f"$.{FIELD}: {error}", task_id=named) from None
    found = _object(body)
    return (
        body
        if found is None
        else encode({**found, **{name: value for name, value in beside.items() if value is not None}})
    )


async def by_reference(data: bytes, texts: Texts) -> bytes:
    """The request as it fits one message."""
    return await texts.refer("requests/whole", data, {}) if texts.too_large(data) else data


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(data)
    except UNDECODABLE:
        return None
    return found if isinstance(found, dict) else None
