"""Keeps the states of running tasks in memory, the latest used ones, up to a number of bytes."""

from collections import OrderedDict

from fleet.control.states.store import Stored

CACHED_BYTES = 64 * 1024 * 1024
"""As JSON. One state may have that many by itself: it is not kept then."""


class StateCache:
    """What another process saves is not seen here: who decides by a cached state must save by compare-and-set."""

    def __init__(self, limit_bytes: int = CACHED_BYTES) -> None:
        self._limit = limit_bytes
        self._states: OrderedDict[str, Stored] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._states)

    def get(self, task_id: str) -> Stored | None:
        return self._states.get(task_id)

    def put(self, stored: Stored) -> None:
        """Keeps it, unless its task has ended or it is too large."""
        task_id = stored.state.task_id
        self.drop(task_id)
        if stored.state.ended or stored.size > self._limit:
            return
        self._states[task_id] = stored
        self.bytes += stored.size
        while self.bytes > self._limit:
            self.drop(next(iter(self._states)))

    def clear(self) -> None:
        self._states.clear()
        self.bytes = 0

    def drop(self, task_id: str) -> None:
        if (stored := self._states.pop(task_id, None)) is not None:
            self.bytes -= stored.size
