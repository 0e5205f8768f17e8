"""What travels on NATS, as frozen structs. `subjects.md` documents each.

New fields have defaults, and no field changes its type.
"""

from functools import cache
from typing import Any, Final, Literal, TypeVar, cast

import msgspec
from msgspec import Struct

Phase = Literal["propose", "critique", "revise", "score"]
Status = Literal["PENDING", "IN_PROGRESS", "COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "UNKNOWN"]

T = TypeVar("T")


class Message(Struct, frozen=True, kw_only=True):
    """Base of everything on the wire. Unknown fields are ignored, so that versions can run side by side."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        # FastStream's AsyncAPI generator asks pydantic for schemas; nothing is validated through it.
        from pydantic_core import core_schema

        return core_schema.any_schema()

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        _, components = msgspec.json.schema_components([cls], ref_template="{name}")
        inlined = _inline(components[cls.__name__], components)
        assert isinstance(inlined, dict)
        return inlined


def _inline(schema: Any, components: dict[str, Any]) -> Any:
    """References replaced by what they refer to: pydantic follows only its own. No message contains itself."""
    if isinstance(schema, list):
        return [_inline(item, components) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inline(components[schema["$ref"]], components)
    return {key: _inline(value, components) for key, value in schema.items()}


_encoder = msgspec.json.Encoder()


def encode(message: Any) -> bytes:
    """JSON, UTF-8."""
    return _encoder.encode(message)


@cache
def decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """One compiled decoder per type."""
    return msgspec.json.Decoder(kind)


def decode(data: bytes, kind: type[T]) -> T:
    """Raises `msgspec.MsgspecError` (or `UnicodeDecodeError`) for what is no such message."""
    decoded: T = decoder(cast(Any, kind)).decode(data)
    return decoded


# --- one agent call -------------------------------------------------------------------------------------------------


class ChatMessage(Message, frozen=True, kw_only=True):
    """One message of a chat completion."""

    role: Literal["system", "user", "assistant"]
    content: str


class AgentRequested(Message, frozen=True, kw_only=True):
    """One agent call, complete: a worker needs nothing else to make it.

    `answer_schema` is a JSON Schema that the answer must satisfy (absent: free text). `labels` maps the labels that the
    prompt uses for proposals ("A", "B" …) to their authors; it never reaches the model.
    """

    task_id: str
    agent_id: str
    role: str
    phase: Phase
    round: int
    messages: tuple[ChatMessage, ...]
    num_agents: int
    deadline_at: str
    attempt: int = 1
    seed: int | None = None
    diversity: bool = False
    revisions: int = 0
    answer_schema: dict[str, Any] | None = None
    labels: dict[str, str] = {}
    correlation: dict[str, str] = {}


class Usage(Message, frozen=True, kw_only=True):
    """Tokens as the model reported them; failed attempts included."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
        )


class Proposal(Message, frozen=True, kw_only=True):
    """A text that a model wrote. `tokens` are completion tokens, `revisions` counts how often its author rewrote it.

    `content_ref` (`{"bucket", "name", "bytes"}`) stands for a `content` too long for one NATS message.
    """

    content: str
    author_id: str
    author_role: str
    model: str
    temperature: float
    tokens: int
    revisions: int = 0
    content_ref: dict[str, Any] | None = None


class Critique(Message, frozen=True, kw_only=True):
    """What one reviewer says of the proposal of `author_id`."""

    author_id: str
    strengths: tuple[str, ...] = ()
    weaknesses: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()


class CriterionScore(Message, frozen=True, kw_only=True):
    """0 … 10 for one criterion of the rubric, with a line of reasoning."""

    score: float
    rationale: str = ""


class Scorecard(Message, frozen=True, kw_only=True):
    """One reviewer's scores for the proposal of `author_id`, by criterion."""

    author_id: str
    criteria: dict[str, CriterionScore]


class AgentCompleted(Message, tag_field="status", tag="completed", frozen=True, kw_only=True):
    """`agent.response.completed`: the call's answer, in the field of its phase."""

    task_id: str
    agent_id: str
    role: str
    phase: Phase
    round: int
    attempt: int
    model: str
    num_agents: int
    duration_ms: int
    timestamp: str
    proposal: Proposal | None = None
    critiques: tuple[Critique, ...] | None = None
    scores: tuple[Scorecard, ...] | None = None
    diversity: bool = False
    usage: Usage = Usage()
    correlation: dict[str, str] = {}


class AgentFailed(Message, tag_field="status", tag="failed", frozen=True, kw_only=True):
    """`agent.response.failed`: the call gave up. `retryable`: whether the last error was worth another try."""

    task_id: str
    agent_id: str
    role: str
    phase: Phase
    round: int
    attempt: int
    error: str
    error_type: str
    retryable: bool
    num_agents: int
    duration_ms: int
    timestamp: str
    usage: Usage = Usage()
    correlation: dict[str, str] = {}


AgentResponse = AgentCompleted | AgentFailed


class AgentProgress(Message, frozen=True, kw_only=True):
    """`agent.response.progress`: `text_delta` is what came since this attempt's previous event."""

    task_id: str
    agent_id: str
    role: str
    phase: Phase
    round: int
    attempt: int
    progress_pct: int
    message: str
    text_delta: str
    tokens: int
    timestamp: str


class AgentStop(Message, frozen=True, kw_only=True):
    """`agent.stop`: close every open call of this task."""

    task_id: str


# --- the life of a deliberation -------------------------------------------------------------------------------------


class DeliberationAccepted(Message, frozen=True, kw_only=True):
    """`deliberation.accepted`: recorded; work begins."""

    task_id: str
    status: Literal["IN_PROGRESS"]
    role: str
    agents: tuple[str, ...]
    rounds: int
    accepted_at: str
    deadline_at: str
    stream_sequence: int
    correlation: dict[str, str] = {}


class DeliberationRejected(Message, frozen=True, kw_only=True):
    """`deliberation.rejected`: `code` is malformed, invalid or conflict; `error` contains `path`."""

    task_id: str | None
    code: Literal["malformed", "invalid", "conflict"]
    path: str
    error: str
    stream_sequence: int
    rejected_at: str
    correlation: dict[str, str] | None = None


class FailedCall(Message, frozen=True, kw_only=True):
    """One call that ended in error, the deadline included."""

    agent_id: str
    phase: Phase
    error: str
    error_type: str
    round: int = 0


class Review(Message, frozen=True, kw_only=True):
    """What one reviewer said of one proposal: a critique of some round, or the final scores."""

    reviewer_id: str
    phase: Phase
    round: int
    strengths: tuple[str, ...] = ()
    weaknesses: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    criteria: dict[str, CriterionScore] = {}
    score: float | None = None


class RankedResult(Message, frozen=True, kw_only=True):
    """One proposal in its place. `score` is 0 … 10, or null where nobody scored it."""

    rank: int
    agent_id: str
    role: str
    score: float | None
    proposal: Proposal
    reviews: tuple[Review, ...]
    checks: dict[str, Any]
    duration_ms: int


class TotalUsage(Message, frozen=True, kw_only=True):
    """All calls of a deliberation."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    calls: int = 0
    failed_calls: int = 0


class DeliberationCompleted(Message, tag_field="status", tag="COMPLETED", frozen=True, kw_only=True):
    """Terminal: the ranking, best first."""

    task_id: str
    degraded: bool
    missing: tuple[str, ...]
    winner_id: str
    results: tuple[RankedResult, ...]
    failed_agents: tuple[FailedCall, ...]
    total_agents: int
    successful_responses: int
    failed_responses: int
    rounds_run: int
    usage: TotalUsage
    duration_ms: int
    accepted_at: str
    completed_at: str
    correlation: dict[str, str] = {}


class DeliberationFailed(Message, tag_field="status", frozen=True, kw_only=True):
    """Terminal: no proposal. `FAILED`: every agent failed. `TIMEOUT`: the deadline came first."""

    task_id: str
    error: str
    failed_agents: tuple[FailedCall, ...]
    total_agents: int
    duration_ms: int
    completed_at: str
    usage: TotalUsage = TotalUsage()
    correlation: dict[str, str] = {}


class AllFailed(DeliberationFailed, tag="FAILED", frozen=True, kw_only=True):
    """Every agent failed."""


class TimedOut(DeliberationFailed, tag="TIMEOUT", frozen=True, kw_only=True):
    """The deadline came before any proposal."""


class DeliberationCancelled(Message, tag_field="status", tag="CANCELLED", frozen=True, kw_only=True):
    """Terminal: somebody asked to stop."""

    task_id: str
    reason: str
    duration_ms: int
    completed_at: str
    usage: TotalUsage = TotalUsage()
    correlation: dict[str, str] = {}


TerminalEvent = DeliberationCompleted | AllFailed | TimedOut | DeliberationCancelled


def status_of(event: TerminalEvent) -> Status:
    """The `status` a terminal event carries."""
    return event.__struct_config__.tag  # type: ignore[return-value]


# --- request / reply and control ------------------------------------------------------------------------------------


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

    phase: str
    round: int
    done: int
    expected: int


class ResultReply(Message, omit_defaults=True, frozen=True, kw_only=True):
    """The answer of `deliberation.result`."""

    task_id: str
    status: Status
    progress: Progress | None = None
    result: TerminalEvent | None = None
    accepted_at: str | None = None
    deadline_at: str | None = None
    correlation: dict[str, str] | None = None


class DeadlineReached(Message, frozen=True, kw_only=True):
    """`control.deadline`: the scheduled end of a task."""

    task_id: str


SCHEMA_VERSION: Final = 1
