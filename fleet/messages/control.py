"""Defines requests and replies of the micro services, and messages within the control plane."""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from fleet.messages.base import Message, Phase, Status, Timestamp
from fleet.messages.deliberations import TerminalEvent
from fleet.messages.usage import TotalUsage

MOST_OF_A_REASON: Final = 1000
"""Characters. A reason is stored in the state and in the event: without a limit it would be a way to fill both."""


class ResultRequest(Message, frozen=True, kw_only=True):
    """`deliberation.result`: status now, or wait up to `wait_seconds` (at most 300) for the end."""

    task_id: str
    wait_seconds: float | None = None


class CancelRequest(Message, frozen=True, kw_only=True):
    """`deliberation.cancel`, and the durable `control.cancel` it becomes."""

    task_id: str
    reason: Annotated[str, Meta(max_length=MOST_OF_A_REASON)] | None = None


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


class LookRequest(Message, frozen=True, kw_only=True):
    """`control.look`: look whether an equal request has a result. `ended`: the key of one that has just ended."""

    task_id: str
    ended: str = ""


class DeadlineReached(Message, frozen=True, kw_only=True):
    """`control.deadline`: the scheduled end of a task."""

    task_id: str
    run: str = ""


# --- Synadia's agent protocol for NATS, 0.3 ---------------------------------------------------------------------------


class PromptFile(Message, frozen=True, kw_only=True):
    """A file within a message. `content`: Base64."""

    filename: str
    content: str


class PromptRequest(Message, frozen=True, kw_only=True):
    """What the council is asked. `deliberation`: further fields of `deliberation.requested`."""

    prompt: str
    deliberation: dict[str, Any] | None = None


class PromptStatus(Message, tag_field="type", tag="status", frozen=True, kw_only=True):
    """A sign of life: `ack` at first, then words of the form `name=value`."""

    data: str


class PromptText(Message, frozen=True, kw_only=True):
    """A piece of the answer; `attachments` come with the last one."""

    text: str
    attachments: tuple[PromptFile, ...] = ()


class PromptAnswer(Message, tag_field="type", tag="response", frozen=True, kw_only=True):
    """The winner's text, or a piece of it."""

    data: PromptText


class PromptFacts(Message, frozen=True, kw_only=True):
    """`deliberation.json`, which comes with the answer. `score`, `p_best`, `model` and `truncated`
    are the winner's; `failed_calls` by error type.
    """

    task_id: str
    winner_id: str
    score: float | None
    p_best: float | None
    degraded: bool
    missing: tuple[str, ...]
    failed_calls: dict[str, int]
    proposals: int
    rounds_run: int
    truncated: bool
    model: str | None
    usage: TotalUsage
    cost: float | None
    duration_ms: int
    cached_from: str | None
    correlation: dict[str, str]


class PromptError(Message, omit_defaults=True, frozen=True, kw_only=True):
    """Why there is no answer: `error` is a name for programs, `message` a sentence."""

    error: str
    message: str
    task_id: str | None = None


class Heartbeat(Message, frozen=True, kw_only=True):
    """This instance of the agent is there; another one follows within `interval_s`."""

    agent: str
    owner: str
    session: str
    instance_id: str
    ts: Timestamp
    interval_s: int
