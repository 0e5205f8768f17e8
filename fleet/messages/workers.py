"""Defines what workers report of themselves, and how many there should be: values of the bucket `deliberation-workers`,
under `status.<worker>` and `pool`.
"""

from typing import Literal

from fleet.messages.base import Message, Timestamp
from fleet.times import from_rfc3339

SILENT_S = 15.0
"""A worker that tells nothing for so long hangs, or has ended. It is five times what it waits between two statuses."""

BreakerState = Literal["closed", "open", "half-open"]


class EndpointStatus(Message, frozen=True, kw_only=True):
    """How one endpoint looks from a worker. `breaker`: of the best of its models; `opened`: how often theirs have.
    `waiting`: calls that would begin there. `refuses`: models, and why. `answers`: whether it did when it was last
    asked anything; null: not asked yet. `last_error`: of the last attempt that failed there, its type and a sentence,
    and how long that is ago.
    """

    url: str
    breaker: BreakerState
    opened: int
    open_calls: int
    name: str = ""
    waiting: int = 0
    refuses: dict[str, str] = {}
    answers: bool | None = None
    last_error_type: str | None = None
    last_error: str | None = None
    last_error_age_s: float | None = None


class WorkerStatus(Message, frozen=True, kw_only=True):
    """How a worker is. `last_fetch_age_s`: since NATS last answered its pull; 0 while it requests nothing.
    `waiting_by_model`: calls that no endpoint takes now. `draining`: it takes nothing new, and ends with its last call.
    """

    name: str
    started_at: Timestamp
    told_at: Timestamp
    open_calls: int
    done: int
    failed: int
    last_fetch_age_s: float
    endpoints: tuple[EndpointStatus, ...] = ()
    waiting_by_model: dict[str, int] = {}
    draining: bool = False


def is_silent(worker: WorkerStatus, now_ms: int) -> bool:
    """Whether it has told nothing for too long."""
    return now_ms - from_rfc3339(worker.told_at) >= SILENT_S * 1000


class PoolSize(Message, frozen=True, kw_only=True):
    """How many workers there should be, decided by compare-and-set: each decision is made from the one before.

    `wanted`: how many are to run; `needed`: how many the work of this moment asks for; `due`: how many should answer by
    now. `grown_at_ms`: when `wanted` rose last. `low_since_ms`: since when fewer would have been enough, null: they
    would not; `low_most`: the most that were needed since. `calls_at_once`: what the decision went by.
    """

    wanted: int
    needed: int
    due: int
    decided_at_ms: int
    grown_at_ms: int = 0
    low_since_ms: int | None = None
    low_most: int = 0
    calls_at_once: float = 0.0
