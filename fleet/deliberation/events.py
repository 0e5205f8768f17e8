"""Defines the events that the core applies (facts, past tense) and the effects that it asks for (imperative).

Time is data: events carry `at_ms`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fleet.deliberation.drawing import RoleModels
from fleet.messages import (
    AgentRequested,
    AgentResponse,
    DeliberationAccepted,
    DeliberationCompleted,
    DeliberationRejected,
    Judge,
    TerminalEvent,
)
from fleet.requests.task import Task


@dataclass(frozen=True, slots=True)
class Requested:
    """A valid request arrived; `task_id` is the task's key (`tenants.names`), `sequence` the request's place in its
    stream, `rubric` its role's (None: the default one).

    `models`: by role, of those roles that share their calls between several models; `shadows`: by role, its models on
    trial; `judges`: who reviews beside its members.
    `run`: when it was stored there; `message_id`: its client's, or the service's. No other request has the same.
    `cache_key`: what all equal requests have; empty: it has nothing to do with the cache. `answer`: of an equal one.
    """

    task_id: str
    task: Task
    sequence: int
    at_ms: int
    traceparent: str | None = None
    rubric: dict[str, float] | None = None
    ignored_fields: tuple[str, ...] = ()
    run: str = ""
    message_id: str | None = None
    models: Mapping[str, RoleModels] = field(default_factory=dict)
    shadows: Mapping[str, Sequence[str]] = field(default_factory=dict)
    cache_key: str = ""
    answer: DeliberationCompleted | None = None
    judges: tuple[Judge, ...] = ()


@dataclass(frozen=True, slots=True)
class Responded:
    """A worker answered, or gave up."""

    response: AgentResponse
    at_ms: int


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The task's time, or that of its shadows, is over. `run`: of which request for it; empty: not known."""

    at_ms: int
    run: str = ""


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """Somebody wants it to stop."""

    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Followed:
    """An equal request waits for this one's result. `follower`: its key."""

    follower: str


@dataclass(frozen=True, slots=True)
class ResultFound:
    """There is the result of an equal request."""

    result: DeliberationCompleted
    at_ms: int


@dataclass(frozen=True, slots=True)
class ResultMissing:
    """No equal request has a result or is at work on one: this one is to be."""

    at_ms: int


Event = Requested | Responded | DeadlinePassed | CancelAsked | Followed | ResultFound | ResultMissing


@dataclass(frozen=True, slots=True)
class Announce:
    """Publish `deliberation.accepted`."""

    accepted: DeliberationAccepted


@dataclass(frozen=True, slots=True)
class SetDeadline:
    """Schedule the deadline message, in place of the task's scheduled one. `attempt`: which one, where it was lost."""

    task_id: str
    at: str
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class ClearDeadline:
    """Take the scheduled deadline back."""

    task_id: str


@dataclass(frozen=True, slots=True)
class CallAgent:
    """Hand one call to the workers."""

    request: AgentRequested


@dataclass(frozen=True, slots=True)
class StopCalls:
    """Tell the workers to close what is still open."""

    task_id: str


@dataclass(frozen=True, slots=True)
class Conclude:
    """Publish the terminal event."""

    event: TerminalEvent


@dataclass(frozen=True, slots=True)
class Reject:
    """Publish `deliberation.rejected` for one request; the state does not change. `traceparent`: that request's."""

    rejected: DeliberationRejected
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class LookForResult:
    """Look for the result of a request that equals this one. `ended`: the key of one that has just ended, for which it
    has waited; else `look_at` is when it would look the next time.
    """

    task_id: str
    look_at: str = ""
    ended: str = ""


Effect = Announce | SetDeadline | ClearDeadline | CallAgent | StopCalls | Conclude | Reject | LookForResult
