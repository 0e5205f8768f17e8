"""Defines requests and replies of the micro service, and messages within the control plane."""

from typing import Literal

from fleet.messages.base import Message, Phase, Status, Timestamp
from fleet.messages.deliberations import TerminalEvent
from fleet.messages.usage import TotalUsage


class ResultRequest(Message, frozen=True, kw_only=True):
    """`deliberation.result`: status now, or wait up to `wait_seconds` (at most 300) for the end."""

    task_id: str
    wait_seconds: float | None = None


class CancelRequest(Message, frozen=True, kw_only=True):
    """`deliberation.cancel`, and the durable `control.cancel` it becomes."""

    task_id: str
    reason: str | None = None


class Progress(Message, frozen=True, kw_only=True):
    """Calls of the current phase: `done` of `expected`."""

    phase: Phase
    round: int
    done: int
    expected: int


class ResultReply(Message, omit_defaults=True, frozen=True, kw_only=True):
    """The answer of `deliberation.result`. `usage`, `cost`: so far, of the calls that ended; `result` has those of the
    end.
    """

    task_id: str
    status: Status
    progress: Progress | None = None
    result: TerminalEvent | None = None
    accepted_at: Timestamp | None = None
    deadline_at: Timestamp | None = None
    correlation: dict[str, str] | None = None
    usage: TotalUsage | None = None
    cost: float | None = None


class FollowReply(Message, omit_defaults=True, frozen=True, kw_only=True):
    """One reply of `deliberation.follow`: a phase began, a call ended (`agent_id`, `outcome`), or all goes on."""

    task_id: str
    phase: Phase
    round: int
    done: int
    expected: int
    agent_id: str | None = None
    outcome: str | None = None


class CancelReply(Message, frozen=True, kw_only=True):
    """The answer of `deliberation.cancel`: the task has ended, as `CANCELLED`."""

    task_id: str
    status: Literal["CANCELLED"]


class ServiceError(Message, omit_defaults=True, frozen=True, kw_only=True):
    """The body of a service error. `status`: what is known of the task that the call named."""

    error: str
    task_id: str | None = None
    status: Status | None = None


class DeadlineReached(Message, frozen=True, kw_only=True):
    """`control.deadline`: the scheduled end of a task."""

    task_id: str
    run: str = ""
