"""Loads and saves the state of a deliberation: one JSON value per task, changed by compare-and-set only."""

import uuid
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from nats.js import JetStreamContext
from nats.js.errors import (
    KeyDeletedError,
    KeyNotFoundError,
    KeyWrongLastSequenceError,
)

from fleet import subjects
from fleet.deliberation.state import SCHEMA_VERSION, Deliberation
from fleet.errors import NewerState, StoreConflict, UnreadableState
from fleet.jetstream.payloads import MissingText, Texts, TooLong, reference
from fleet.messages import UNDECODABLE, Message, decode, encode
from fleet.observability.retries import again
from fleet.tenants.names import is_key

LOAD_AGAIN, LOAD_FIRST_PAUSE_S, LOAD_LONGEST_PAUSE_S = 4, 0.02, 0.16
"""Of a state whose object is not there: a replica may be late, or the state was just replaced."""
TOP_LEVEL = ("task_id", "run", "status", "phase", "round", "calls")
"""What stands in the bucket even of a state that is elsewhere."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A state and the revision it was read at."""

    state: Deliberation
    revision: int
    size: int
    """Bytes, as JSON."""


class StateStore(Protocol):
    """Load and compare-and-set; the same contract test runs against every implementation."""

    async def load(self, task_id: str) -> Stored | None:
        """None when there is no such task (or it has expired). Raises `NewerState` and `UnreadableState`."""

    async def save(self, state: Deliberation, revision: int) -> Stored:
        """Writes if the value is still at `revision` (0: there is none); returns it with its new one.

        Raises `StoreConflict`.
        """


class KeyValueStore:
    """The JetStream bucket `deliberations`. A state beyond `max_payload` goes to the object store, whole; the bucket
    then holds its top level and a reference. The object of a state that was replaced is deleted.
    """

    def __init__(self, js: JetStreamContext, bucket: Any, texts: Texts) -> None:
        self._js = js
        self._bucket = bucket
        self._texts = texts

    @classmethod
    async def open(cls, js: JetStreamContext, texts: Texts) -> "KeyValueStore":
        """The bucket must exist: `topology.declare` makes it."""
        return cls(js, await js.key_value(subjects.BUCKET), texts)

    async def load(self, task_id: str) -> Stored | None:
        if not is_key(task_id):
            return None
        try:
            return await self._load(task_id)
        except UnreadableState as error:
            if not _may_come(error):
                raise
        return await again(
            "state.load",
            lambda: self._load(task_id),
            on=_may_come,
            attempts=LOAD_AGAIN,
            first_s=LOAD_FIRST_PAUSE_S,
            longest_s=LOAD_LONGEST_PAUSE_S,
        )

    async def _load(self, task_id: str) -> Stored | None:
        entry = await self._entry(task_id)
        if entry is None:
            return None
        try:
            value = await self._texts.inline(entry.value or b"")
            return Stored(_decoded(task_id, value), entry.revision, len(value))
        except MissingText as error:
            may_come = not isinstance(error, TooLong)
            raise UnreadableState(task_id, entry.revision, error, may_come=may_come) from error
        except UNDECODABLE as error:
            raise UnreadableState(task_id, entry.revision, error) from None

    async def save(self, state: Deliberation, revision: int) -> Stored:
        value = encode(state)
        if not self._texts.too_large(value):
            return Stored(state, await self._write(state, revision, value), len(value))
        replaced = await self._entry(state.task_id) if revision else None
        top = {name: getattr(state, name) for name in TOP_LEVEL}
        if state.shadows is not None:
            top["shadows"] = {"calls": state.shadows.calls}
        name = f"tasks/{state.task_id}/state-{revision + 1}-{uuid.uuid4().hex[:8]}"  # never shared with a replica
        ref = await self._texts.put(name, value)
        try:
            written = await self._write(state, revision, encode({**top, "content_ref": ref}))
        except StoreConflict:
            await self._texts.delete(ref)
            raise
        if replaced is not None and (old := reference(replaced.value)):
            await self._texts.delete(old)
        return Stored(state, written, len(value))

    async def delete(self, stored: Stored) -> None:
        """Unless it has changed meanwhile. Leaves no mark, as the bucket's own deletion does: marks would fill it."""
        task_id = stored.state.task_id
        entry = await self._entry(task_id)
        subject = f"$KV.{subjects.BUCKET}.{task_id}"
        await self._js.purge_stream(subjects.STATES, seq=stored.revision + 1, subject=subject)
        if entry is not None and entry.revision == stored.revision and (ref := reference(entry.value)):
            await self._texts.delete(ref)

    async def _entry(self, task_id: str) -> Any:
        try:
            return await self._bucket.get(task_id)
        except (KeyNotFoundError, KeyDeletedError):
            return None

    async def _write(self, state: Deliberation, revision: int, value: bytes) -> int:
        try:
            if revision == 0:
                created: int = await self._bucket.create(state.task_id, value)
                return created
            updated: int = await self._bucket.update(state.task_id, value, last=revision)
            return updated
        except KeyWrongLastSequenceError:
            raise StoreConflict(state.task_id, revision) from None


def _may_come(error: Exception) -> bool:
    return isinstance(error, UnreadableState) and error.may_come


class _Versioned(Message, frozen=True):
    """The part of a state that every version of the fleet understands."""

    schema: int = SCHEMA_VERSION


def _decoded(task_id: str, value: bytes) -> Deliberation:
    """Of this version, or an older one. Raises `NewerState`: what is not understood would be lost in writing it."""
    written_by = decode(value, _Versioned).schema
    if written_by > SCHEMA_VERSION:
        raise NewerState(task_id, written_by)
    state = decode(value, Deliberation)
    if state.task_id != task_id:  # a client had NATS send it here, as its answer to a read of the bucket
        raise msgspec.ValidationError(f"it is the state of {state.task_id}")
    return state if written_by == SCHEMA_VERSION else state.change(schema=SCHEMA_VERSION)


class MemoryStore:
    """For tests: the same contract, gone with the process. Values pass through JSON as they do on NATS."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[bytes, int]] = {}
        self._revision = 0

    async def load(self, task_id: str) -> Stored | None:
        if task_id not in self._values:
            return None
        value, revision = self._values[task_id]
        return Stored(_decoded(task_id, value), revision, len(value))

    async def save(self, state: Deliberation, revision: int) -> Stored:
        _, current = self._values.get(state.task_id, (b"", 0))
        if current != revision:
            raise StoreConflict(state.task_id, revision)
        self._revision += 1
        value = encode(state)
        self._values[state.task_id] = (value, self._revision)
        return Stored(state, self._revision, len(value))
