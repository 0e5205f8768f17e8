"""What does not fit one NATS message travels by reference: the body goes to the object store, whole, and the message
carries `content_ref` (`{"bucket", "name", "bytes"}`) beside what fits. Nothing is ever cut.

Objects expire with the results of their task (the bucket's TTL).
"""

import uuid
from typing import Any

import msgspec
from nats.js import JetStreamContext
from nats.js.errors import ObjectNotFoundError

from fleet import subjects
from fleet.errors import FleetError
from fleet.messages import Message, encode

HEADROOM = 8 * 1024
"""Bytes of `max_payload` kept free for headers."""


class ContentRef(Message, frozen=True, kw_only=True):
    """Where a body lies."""

    bucket: str
    name: str
    bytes: int


class MissingText(FleetError):
    """A reference to an object that has expired, or was never stored."""


class Texts:
    """The object store `deliberation-texts`, and the limit above which it is used."""

    def __init__(self, js: JetStreamContext, max_payload: int) -> None:
        self._js = js
        self._limit = max_payload - HEADROOM
        self._objects: Any = None

    def too_large(self, body: bytes) -> bool:
        """Whether `body` needs a reference."""
        return len(body) > self._limit

    async def put(self, name: str, body: bytes) -> ContentRef:
        """Stores `body` under a name of its own: what is referred to never changes."""
        unique = f"{name}-{uuid.uuid4().hex[:8]}"
        await (await self._store()).put(unique, body)
        return ContentRef(bucket=subjects.TEXTS, name=unique, bytes=len(body))

    async def get(self, ref: ContentRef) -> bytes:
        """Raises `MissingText`."""
        try:
            found = await (await self._store()).get(ref.name)
        except ObjectNotFoundError:
            raise MissingText(f"{ref.bucket}/{ref.name} is gone") from None
        data: bytes = found.data
        return data

    async def refer(self, name: str, body: bytes, top: dict[str, Any]) -> bytes:
        """Stores `body`, and returns the message that stands for it: `top` and a `content_ref`."""
        return encode({**top, "content_ref": await self.put(name, body)})

    async def inline(self, body: bytes) -> bytes:
        """The body itself, or what it refers to."""
        if b'"content_ref":{' not in body[-512:]:
            return body
        top = msgspec.json.decode(body)
        if not isinstance(top, dict) or "content_ref" not in top:
            return body
        return await self.get(msgspec.convert(top["content_ref"], ContentRef))

    async def _store(self) -> Any:
        if self._objects is None:
            self._objects = await self._js.object_store(subjects.TEXTS)
        return self._objects
