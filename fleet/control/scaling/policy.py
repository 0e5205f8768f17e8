"""Decides how many workers there should be. Pure: the clock is passed in, and what is to be remembered is in the value.

A worker makes `calls_per_worker` calls at once, so what counts is how many calls can be open at the same time, soon. A
deliberation has as many as it has agents, in every phase that it still has to go through, and those of judges where it
is scored. Between two phases none of them is open: who counts open calls alone ends workers there, and starts them
again a moment later.

| needed, against wanted | what happens |
|---|---|
| more | `wanted` grows, at once |
| as many, or one less with little room to spare | nothing |
| fewer, for `shrink_after_s` | `wanted` falls to the most that were needed in that time |
"""

import math
from typing import NamedTuple

from fleet.limits.workers import Workers
from fleet.messages.workers import PoolSize

SPARE = 0.1
"""Fewer workers are enough only where they have so much more room than is needed. So a load that goes up and down at
the edge of a worker's room starts and ends none."""
STARTING_MS = 180_000
"""A worker may take as long to start: a node has to come first."""


class Load(NamedTuple):
    """`open_calls`: stored and not answered. `coming`: that running deliberations may have open at once, by what they
    still have to do. `begins`: requests that wait and are let in as soon as somebody works; `width`: calls that each of
    them opens at once."""

    open_calls: int
    coming: float
    begins: int = 0
    width: float = 0.0

    @property
    def calls_at_once(self) -> float:
        return max(self.open_calls, self.coming) + self.begins * max(1.0, self.width)


def first_size(workers: Workers, load: Load, answering: int, now_ms: int) -> PoolSize:
    """Where no earlier decision is known: those that answer stay until they have been too many for long enough."""
    needed = _enough(workers, load.calls_at_once)
    wanted = min(workers.highest, max(needed, answering))
    begin = PoolSize(wanted=wanted, needed=needed, due=min(wanted, answering), decided_at_ms=now_ms, grown_at_ms=now_ms)
    return next_size(begin, workers, load, now_ms)


def next_size(before: PoolSize, workers: Workers, load: Load, now_ms: int) -> PoolSize:
    """The decision that follows `before`."""
    calls = load.calls_at_once
    needed, comfortable = _enough(workers, calls), _enough(workers, calls * (1 + SPARE))
    wanted = min(workers.highest, max(workers.lowest, before.wanted))
    low_since, low_most, grown_at = before.low_since_ms, max(before.low_most, comfortable), before.grown_at_ms
    if comfortable >= wanted:
        low_since, low_most = None, 0
        if needed > wanted:
            wanted, grown_at = needed, now_ms
    elif low_since is None:
        low_since, low_most = now_ms, comfortable
    elif now_ms - low_since >= workers.shrink_after_s * 1000:
        wanted, low_since, low_most = low_most, None, 0
    due = wanted if now_ms - grown_at >= STARTING_MS else min(before.due, wanted)
    return PoolSize(
        wanted=wanted,
        needed=needed,
        due=due,
        decided_at_ms=now_ms,
        grown_at_ms=grown_at,
        low_since_ms=low_since,
        low_most=low_most,
        calls_at_once=round(calls, 1),
    )


def _enough(workers: Workers, calls: float) -> int:
    return min(workers.highest, max(workers.lowest, math.ceil(calls / workers.calls_per_worker)))
