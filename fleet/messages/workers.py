"""Defines what workers report of themselves: values of the bucket `deliberation-workers`, under `status.<worker>`."""

from typing import Literal

from fleet.messages.base import Message, Timestamp

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
    `waiting_by_model`: calls that no endpoint takes now.
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
