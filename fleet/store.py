"""Where the state of a deliberation lives: one JSON value per task, changed by compare-and-set only."""

from dataclasses import dataclass
from typing import Any, Protocol

from nats.js import JetStreamContext
from nats.js.errors import (
    KeyDeletedError,
    KeyNotFoundError,
    KeyWrongLastSequenceError,
)

from fleet import subjects
from fleet.deliberation.state import Deliberation
from fleet.errors import StoreConflict
from fleet.messages import decode, encode
from fleet.texts import Texts


@dataclass(frozen=True, slots=True)
class Stored:
    """A state and the revision it was read at."""

    state: Deliberation
    revision: int


def is_key(task_id: str) -> bool:
    """Whether there can be a state under this name."""
    return 0 < len(task_id) <= 64 and all(char.isascii() and (char.isalnum() or char in "_-") for char in task_id)


class StateStore(Protocol):
    """Load and compare-and-set; the same contract test runs against every implementation."""

    async def load(self, task_id: str) -> Stored | None:
        """None when there is no such task (or it has expired)."""

    async def save(self, state: Deliberation, revision: int) -> int:
        """Writes if the value is still at `revision` (0: there is none); returns the new one.

        Raises `StoreConflict`.
        """


class KeyValueStore:
    """The JetStream bucket `deliberations`. A state beyond `max_payload` goes to the object store, whole; the bucket
    then holds its top level and a reference.
    """

    def __init__(self, bucket: Any, texts: Texts) -> None:
        self._bucket = bucket
        self._texts = texts

    @classmethod
    async def open(cls, js: JetStreamContext, texts: Texts) -> "KeyValueStore":
        """The bucket must exist: `topology.declare` makes it."""
        return cls(await js.key_value(subjects.BUCKET), texts)

    async def load(self, task_id: str) -> Stored | None:
        if not is_key(task_id):
            return None
        try:
            entry = await self._bucket.get(task_id)
        except (KeyNotFoundError, KeyDeletedError):
            return None
        value = await self._texts.inline(entry.value)
        return Stored(decode(value, Deliberation), entry.revision)

    async def save(self, state: Deliberation, revision: int) -> int:
        value = encode(state)
        if self._texts.too_large(value):
            top = {"task_id": state.task_id, "status": state.status, "phase": state.phase, "round": state.round}
            value = await self._texts.refer(f"{state.task_id}/state-{revision + 1}", value, top)
        try:
            if revision == 0:
                created: int = await self._bucket.create(state.task_id, value)
                return created
            updated: int = await self._bucket.update(state.task_id, value, last=revision)
            return updated
        except KeyWrongLastSequenceError:
            raise StoreConflict(state.task_id, revision) from None


class MemoryStore:
    """For tests: the same contract, gone with the process. Values pass through JSON as they do on NATS."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[bytes, int]] = {}
        self._revision = 0

    async def load(self, task_id: str) -> Stored | None:
        if task_id not in self._values:
            return None
        value, revision = self._values[task_id]
        return Stored(decode(value, Deliberation), revision)

    async def save(self, state: Deliberation, revision: int) -> int:
        _, current = self._values.get(state.task_id, (b"", 0))
        if current != revision:
            raise StoreConflict(state.task_id, revision)
        self._revision += 1
        self._values[state.task_id] = (encode(state), self._revision)
        return self._revision
