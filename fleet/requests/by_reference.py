"""Reads and writes requests that are too long for one message: `{"content_ref": …}` and a body in the object store."""

from typing import Any

import msgspec

from fleet import subjects
from fleet.errors import BadRequest
from fleet.jetstream.payloads import CLIENTS_OWN, MissingText, Texts
from fleet.messages import UNDECODABLE, ContentRef, Message, encode
from fleet.tenants.names import DEFAULT_TENANT, key_of
from fleet.undecodable import broken_rule

FIELD = "content_ref"
MOST_BYTES = 8 * 1024 * 1024
"""A request that is larger breaks a rule anyway. Many may be read at a time."""


class RequestRef(Message, frozen=True, kw_only=True):
    """`content_ref` as a client sends it."""

    name: str
    bucket: str = subjects.TEXTS
    bytes: int | None = None


async def whole_request(data: bytes, sequence: int, texts: Texts, tenant: str = DEFAULT_TENANT) -> bytes:
    """The request's whole body. Fields of the message win over the same fields of the stored object. A tenant may refer
    to its own objects only.

    Raises `BadRequest` for a reference to nothing. What is no JSON is returned as it is.
    """
    message = _object(data) if f'"{FIELD}"'.encode() in data else None
    if message is None or message.get(FIELD) is None:
        return data
    try:
        ref = msgspec.convert(message.pop(FIELD), RequestRef)
        if ref.bucket != subjects.TEXTS:
            raise MissingText(f"the bucket is {subjects.TEXTS}, not {ref.bucket}")
        own = _own(tenant)
        if not ref.name.startswith(own):
            raise MissingText(f"the name of a request begins with {own}")
        body = await texts.get(ContentRef(bucket=ref.bucket, name=ref.name, bytes=ref.bytes or 0), MOST_BYTES)
    except (msgspec.ValidationError, MissingText) as error:
        path, rule = f"$.{FIELD}", str(error)
        if isinstance(error, msgspec.ValidationError):
            path, _, rule = broken_rule(rule).replace("$", path, 1).partition(": ")
        task_id = message.get("task_id")
        known_id = task_id if isinstance(task_id, str) else subjects.generated_id(sequence)
        raise BadRequest("invalid", path, f"{path}: {rule}", task_id=known_id) from None
    stored = _object(body)
    if stored is None:
        return body
    return encode({**stored, **{name: value for name, value in message.items() if value is not None}})


async def by_reference(data: bytes, texts: Texts, tenant: str = DEFAULT_TENANT) -> bytes:
    """The request as it fits one message."""
    return await texts.refer(f"{_own(tenant)}whole", data, {}) if texts.too_large(data) else data


def _own(tenant: str) -> str:
    return CLIENTS_OWN + key_of(tenant, "")


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(data)
    except UNDECODABLE:
        return None
    return value if isinstance(value, dict) else None
