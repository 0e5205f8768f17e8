"""Sends bodies that do not fit one NATS message by reference (the claim check pattern).

The body goes to the object store, whole, and the message carries `content_ref` (`{"bucket", "name", "bytes"}`) beside
what fits. Nothing is ever cut.

An object lives as long as what refers to it. A name begins with its kind, and the kind says for how long at most; a
state's is deleted once the next state is saved. A call's is left to expire.

There are two stores. Workers write to one of their own, where nothing can be replaced or deleted, and the first of a
name counts: a worker that is broken into takes nobody's text away.

The layout is that of every JetStream object store. It is written here because nats-py's chunks are larger than some
`max_payload`, and because its reading leaves a consumer behind and may ask a replica that has not all of it yet.
"""

import base64
import hashlib
import math
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import nats.errors
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from fleet import subjects
from fleet.clock import now_ms
from fleet.errors import FleetError
from fleet.jetstream.lifetimes import ANSWERS_S, CALLS_S, DAY_S, LETTERS_S
from fleet.jetstream.streams import BUCKETS, BucketSpec
from fleet.logger import Logger
from fleet.messages import UNDECODABLE, ContentRef, Message, encode
from fleet.times import from_rfc3339, rfc3339

log = Logger(__name__)

HEADROOM = 8 * 1024
"""Bytes of `max_payload` kept free for headers."""
MAX_CHUNK = 512 * 1024
MAX_BYTES = 64 * 1024 * 1024
"""The longest body that is read into memory."""


CLIENTS_OWN = "requests/"
"""Names that clients choose; all others end with the digest of what was stored."""
LETTERS_TEXTS = "deadletters/text"


class MissingText(FleetError):
    """A reference to an object that has expired, or was never stored."""


class TooLong(MissingText):
    """A reference to an object that is too long to be read into memory."""


class _Object(Message, frozen=True, kw_only=True):
    """What the object store says of an object; chunks lie under its `nuid`."""

    name: str
    bucket: str
    nuid: str
    size: int
    chunks: int = 0
    digest: str = ""
    mtime: str = ""
    description: str = ""
    deleted: bool = False


class _Envelope(Message, frozen=True):
    """A message that stands for another one."""

    content_ref: ContentRef | None = None


class Texts:
    """The object stores, and the limit above which they are used. `store`: the one that is written to.

    `max_payload` is asked at each use where it can be: a server may come back with another one.
    """

    def __init__(
        self,
        js: JetStreamContext,
        max_payload: int | Callable[[], int],
        results_s: float = 7 * DAY_S,
        store: str = subjects.TEXTS,
    ) -> None:
        self._js = js
        self._store = _STORES[store]
        self._max_payload = max_payload
        self._lifetimes_s = {
            "tasks": results_s,
            "calls": CALLS_S,
            "answers": min(ANSWERS_S, results_s),
            "requests": results_s,
            "deadletters": LETTERS_S,
        }

    def too_large(self, body: bytes) -> bool:
        """Whether `body` needs a reference."""
        return len(body) > self.limit

    async def put(self, name: str, body: bytes, *, renew_after_s: float | None = None) -> ContentRef:
        """Stores `body` under a name that ends with its digest: what is referred to never changes, and is stored once.

        `name` is `<kind>/…`; the kinds are those of `_lifetimes_s`. `renew_after_s`: what is older is stored again.
        Where others may have written something else under that name, it is stored each time.
        """
        digest = hashlib.sha256(body)
        unique = f"{name}-{digest.hexdigest()[:32]}"
        object_ = None if self._store.append_only else await self._find(self._store, unique)
        if object_ is None or (renew_after_s is not None and _age_s(object_) > renew_after_s):
            ttl = self._ttl(name)
            object_ = _Object(
                name=unique,
                bucket=self._store.name,
                nuid=uuid.uuid4().hex,
                size=len(body),
                chunks=-(-len(body) // self._chunk),
                digest=_digest(digest.digest()),
                mtime=rfc3339(now_ms()),
            )
            for start in range(0, len(body), self._chunk):
                await self._js.publish(
                    _chunks(self._store, object_.nuid), body[start : start + self._chunk], headers=ttl
                )
            await self._write_meta(object_)
        return ContentRef(bucket=self._store.name, name=unique, bytes=len(body))

    async def get(self, ref: ContentRef, most_bytes: int | None = None) -> bytes:
        """Raises `MissingText`, and `TooLong` for what is longer."""
        most_bytes = MAX_BYTES if most_bytes is None else most_bytes
        store = _STORES.get(ref.bucket)
        object_ = await self._find(store, ref.name) if store is not None else None
        if object_ is not None and object_.size > most_bytes:
            raise TooLong(f"{ref.bucket}/{ref.name} has {object_.size} bytes, more than {most_bytes}")
        body, sequence = bytearray(), 0
        try:
            while store is not None and object_ is not None and len(body) < object_.size:
                chunk = await self._js.get_msg(
                    store.stream, sequence + 1, subject=_chunks(store, object_.nuid), next=True
                )
                body += chunk.data or b""
                sequence = chunk.seq or sequence + 1
        except NotFoundError:
            object_ = None
        digest = hashlib.sha256(body)
        if object_ is None or _digest(digest.digest()) != object_.digest:
            raise MissingText(f"{ref.bucket}/{ref.name} is gone")
        if not ref.name.startswith(CLIENTS_OWN) and not ref.name.endswith(digest.hexdigest()[:32]):
            raise MissingText(f"{ref.bucket}/{ref.name} is not what was stored")
        return bytes(body)

    async def delete(self, ref: ContentRef) -> None:
        """Nobody refers to it any more; it may be gone already. What cannot be deleted now expires."""
        try:
            if (object_ := await self._find(self._store, ref.name)) is not None:
                await self._js.purge_stream(self._store.stream, subject=_meta(self._store, ref.name))
                await self._js.purge_stream(self._store.stream, subject=_chunks(self._store, object_.nuid))
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.info("text.not_deleted", name=ref.name, error=repr(error))

    async def refer(self, name: str, body: bytes, top: dict[str, Any]) -> bytes:
        """Stores `body`, and returns the message that stands for it: `top` and a `content_ref`."""
        return encode({**top, "content_ref": await self.put(name, body)})

    async def note(self, name: str, text: str) -> None:
        """A short text that may be written again, as an object without a body."""
        mtime = rfc3339(now_ms())
        await self._write_meta(
            _Object(name=name, bucket=self._store.name, nuid="", size=0, mtime=mtime, description=text)
        )

    async def noted(self, name: str) -> str | None:
        """What `note` wrote last; None: nothing."""
        try:
            # By its subject: workers may read nothing else in their store.
            meta = await self._js.get_last_msg(self._store.stream, _meta(self._store, name), direct=True)
            return msgspec.json.decode(meta.data or b"", type=_Object).description
        except (NotFoundError, msgspec.MsgspecError):
            return None

    async def preserve(self, name: str, body: bytes) -> bytes:
        """`body` as a dead letter keeps it: what it refers to lives as long as that."""
        ref = reference(body)
        if ref is None:
            return await self.refer(name, body, {}) if self.too_large(body) else body
        try:
            whole = await self.get(ref)
        except MissingText:
            return body
        top = {field: value for field, value in msgspec.json.decode(body).items() if field != "content_ref"}
        # Under a name that the text decides: a client may refer to it as often as it likes, in a hundred bytes each.
        return encode({**top, "content_ref": await self.put(LETTERS_TEXTS, whole, renew_after_s=DAY_S)})

    async def inline(self, body: bytes) -> bytes:
        """The body itself, or what it refers to."""
        ref = reference(body)
        return body if ref is None else await self.get(ref)

    @property
    def limit(self) -> int:
        """Bytes that fit one message beside its headers."""
        most = self._max_payload
        return (most if isinstance(most, int) else most()) - HEADROOM

    @property
    def _chunk(self) -> int:
        return min(self.limit, MAX_CHUNK)

    def _ttl(self, name: str) -> dict[str, str]:
        return {"Nats-TTL": f"{max(1, round(self._lifetimes_s[name.partition('/')[0]]))}s"}

    async def _write_meta(self, object_: _Object) -> None:
        only = {} if self._store.append_only else {"Nats-Rollup": "sub"}
        await self._js.publish(
            _meta(self._store, object_.name), encode(object_), headers={**self._ttl(object_.name), **only}
        )

    async def _find(self, store: BucketSpec, name: str) -> _Object | None:
        subject = _meta(store, name)
        try:
            if store.append_only:
                meta = await self._js.get_msg(store.stream, 1, subject=subject, next=True)
            else:
                meta = await self._js.get_last_msg(store.stream, subject)
            object_ = msgspec.json.decode(meta.data or b"", type=_Object)
        except (NotFoundError, msgspec.MsgspecError):
            return None
        return None if object_.deleted else object_


def reference(body: bytes) -> ContentRef | None:
    """What a message of the fleet refers to as a whole; None for one that is complete."""
    if b'"content_ref":{' not in body[-512:]:
        return None
    try:
        return msgspec.json.decode(body, type=_Envelope).content_ref
    except UNDECODABLE:
        return None


_STORES = {spec.name: spec for spec in BUCKETS if spec.kind == "objects"}


def _age_s(object_: _Object) -> float:
    """Since it was stored; one whose time cannot be read is old."""
    try:
        return (now_ms() - from_rfc3339(object_.mtime)) / 1000
    except ValueError:
        return math.inf


def _meta(store: BucketSpec, name: str) -> str:
    return f"{store.subject}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"


def _chunks(store: BucketSpec, nuid: str) -> str:
    return f"{store.subject}.C.{nuid}"


def _digest(sha256: bytes) -> str:
    return f"SHA-256={base64.urlsafe_b64encode(sha256).decode()}"
