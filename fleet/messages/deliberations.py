"""Defines the events of a deliberation: accepted, rejected, and the terminal events with their reports."""

from typing import Literal

from fleet.messages.base import Message, Phase, Status, Timestamp
from fleet.messages.calls import Check, CriterionScore, EarlierText, Proposal, Reward, Synthesis
from fleet.messages.shadows import FailedCall, ShadowReport
from fleet.messages.tasks import AcceptedTask
from fleet.messages.usage import ModelUsage, TotalUsage
from fleet.tenants.names import DEFAULT_TENANT, key_of

DecidedBy = Literal["score", "votes", "comparison", "checks", "borda", "text_hash", "agent_order", "architect"]
StopReason = Literal["all_rounds", "leader_settled", "no_movement", "token_budget", "deadline"]


class DeliberationAccepted(Message, frozen=True, kw_only=True):
    """`deliberation.accepted`: recorded; work begins. `ignored_fields`: fields of the request that mean nothing.

    `run`: when the request was stored, in microseconds, as hexadecimal digits: a task id may be used again once its
    state is gone.
    """

    task_id: str
    status: Literal["IN_PROGRESS"]
    role: str
    agents: tuple[str, ...]
    rounds: int
    accepted_at: Timestamp
    deadline_at: Timestamp
    stream_sequence: int
    run: str = ""
    ignored_fields: tuple[str, ...] = ()
    tenant: str = DEFAULT_TENANT
    correlation: dict[str, str] = {}

    @property
    def key(self) -> str:
        """Of the task within the fleet."""
        return key_of(self.tenant, self.task_id)


class DeliberationRejected(Message, frozen=True, kw_only=True):
    """`deliberation.rejected`: `code` says why; `error` contains `path`.

    `run`: as in `DeliberationAccepted`; `message_id`: the request's `Nats-Msg-Id`, null where it has none.
    """

    task_id: str | None
    code: Literal["malformed", "invalid", "conflict", "undeliverable", "forbidden", "budget"]
    path: str
    error: str
    stream_sequence: int
    rejected_at: Timestamp
    run: str = ""
    message_id: str | None = None
    tenant: str = DEFAULT_TENANT
    correlation: dict[str, str] | None = None


class Review(Message, frozen=True, kw_only=True):
    """One reviewer's judgement of one proposal: a critique of some round, or the final scores.

    `position`: its place (1 …) among the proposals that this reviewer was shown. `score`: the reviewer's weighted mean,
    `adjusted`: what counts (see `Ranking`); in a critique only where it settled the verdict. `reading`: 2 for what was
    scored again, or in addition. Critiques: `scores`, by criterion, of the text as it stood then. `reward`: of a judge,
    who is no member of the council and has seen this text alone (`position` 0); `score` is what it comes to beside the
    others (see `subjects.md`), null where it says nothing. `counted_as`: for a full score that alone would
    decide, what the others make of the text.
    """

    reviewer_id: str
    phase: Phase
    round: int
    position: int = 0
    reading: int = 1
    strengths: tuple[str, ...] = ()
    weaknesses: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    scores: dict[str, float] = {}
    criteria: dict[str, CriterionScore] = {}
    requirements_met: tuple[bool, ...] = ()
    score: float | None = None
    adjusted: float | None = None
    counted_as: float | None = None
    reward: Reward | None = None


class Declined(Message, frozen=True, kw_only=True):
    """An author kept its proposal, with the reason."""

    round: int
    reason: str


class RankedResult(Message, frozen=True, kw_only=True):
    """One proposal in its place. `score` is 0 … 10, or null where nobody scored it: the mean of its reviews'
    `adjusted` less `penalty` (points for failed checks). `p_best`: the chance that it is the best by its reviews; null
    where nothing can be said. `borda`: points by the reviewers' own orders, as a share of the most it could have.
    `votes`: under `selection: vote`. `earlier`: its texts before revisions, oldest first. `shadow`: its first text
    was scored like the first ones of others, and could not win; it stands after all others. `same_as`: the agent that
    wrote the same text and stands before it.
    """

    rank: int
    agent_id: str
    role: str
    score: float | None
    proposal: Proposal
    reviews: tuple[Review, ...]
    checks: dict[str, Check]
    duration_ms: int
    penalty: float = 0.0
    p_best: float | None = None
    borda: float | None = None
    votes: int | None = None
    declined: tuple[Declined, ...] = ()
    earlier: tuple[EarlierText, ...] = ()
    shadow: bool = False
    same_as: str | None = None


class Comparison(Message, frozen=True, kw_only=True):
    """One call that chose among proposals: `order` as shown, `chosen` the author of the one that was named."""

    phase: Phase
    reviewer_id: str
    order: tuple[str, ...]
    chosen: str
    rationale: str = ""


class Ranking(Message, frozen=True, kw_only=True):
    """How the order came about.

    `adjusted = score − leniency[reviewer] − effects[same_model] · y` per review; `subjects.md` says what y is, how
    `leniency_weight` shrinks leniency, and how far off a score counts by `error`, the variance of scores.
    `effective_reviewers`: how many independent ones would know as much. `tied`: who shared the first place before
    `decided_by` decided it.
    """

    method: Literal["score", "vote", "checks"]
    leniency: dict[str, float] = {}
    leniency_weight: float = 1.0
    effects: dict[str, float] = {}
    error: float = 1.0
    effective_reviewers: float | None = None
    tied: tuple[str, ...] = ()
    decided_by: DecidedBy = "score"


class Selection(Message, frozen=True, kw_only=True):
    """`selection: architect`: who was asked, among whom, and what it chose; null where it contradicted itself or gave
    no answer: then the ranking stands.
    """

    chooser_id: str
    candidates: tuple[str, ...]
    chosen: str | None
    contradicted: bool


class RoundReport(Message, frozen=True, kw_only=True):
    """What one round changed. Scores before it are those of its critiques; after it those of the next critiques, or the
    final ones. `similarity`: of each text that was revised or declined, to the one before (1: unchanged).
    """

    round: int
    scores_before: dict[str, float | None]
    scores_after: dict[str, float | None]
    leader_before: str | None
    leader_after: str | None
    winner_changed: bool | None
    similarity: dict[str, float]
    tokens: int


class Disqualified(Message, frozen=True, kw_only=True):
    """An agent whose proposal does not satisfy `options.output_schema`, after one repair."""

    agent_id: str
    reason: str


class DeliberationCompleted(Message, tag_field="status", tag="COMPLETED", frozen=True, kw_only=True):
    """Terminal: the ranking, best first. `margin`: points (votes under `selection: vote`) between the first two.
    `confidence`: 0 … 1, see `subjects.md`; null where there was nothing to compare. `task`: the request as accepted.
    `cost`: of the calls that ended, by the prices of their endpoints; null where one has none. `cached_from`: the task
    whose result this is. `shadows`: null where there were none.
    """

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
    accepted_at: Timestamp
    completed_at: Timestamp
    margin: float | None = None
    confidence: float | None = None
    ranking: Ranking = Ranking(method="score")
    comparisons: tuple[Comparison, ...] = ()
    selection: Selection | None = None
    rounds: tuple[RoundReport, ...] = ()
    stop_reason: StopReason | None = None
    stop_explanation: str = ""
    disqualified: tuple[Disqualified, ...] = ()
    synthesis: Synthesis | None = None
    notes: tuple[str, ...] = ()
    """What was done otherwise than asked for, so that calls got an answer at all; each once."""
    task: AcceptedTask | None = None
    tenant: str = DEFAULT_TENANT
    usage_by_model: dict[str, ModelUsage] = {}
    cost: float | None = None
    cached_from: str | None = None
    shadows: ShadowReport | None = None
    correlation: dict[str, str] = {}

    @property
    def ranked(self) -> tuple[RankedResult, ...]:
        """The results without those of shadows."""
        return tuple(result for result in self.results if not result.shadow)


class DeliberationFailed(Message, tag_field="status", frozen=True, kw_only=True):
    """Terminal: no proposal. `FAILED`: every agent failed. `TIMEOUT`: the deadline came first.

    `task`: the request as accepted; null where the fleet has lost it. `cost`, `shadows`: see `DeliberationCompleted`.
    """

    task_id: str
    error: str
    failed_agents: tuple[FailedCall, ...]
    total_agents: int
    duration_ms: int
    completed_at: Timestamp
    usage: TotalUsage = TotalUsage()
    disqualified: tuple[Disqualified, ...] = ()
    task: AcceptedTask | None = None
    tenant: str = DEFAULT_TENANT
    usage_by_model: dict[str, ModelUsage] = {}
    cost: float | None = None
    shadows: ShadowReport | None = None
    correlation: dict[str, str] = {}


class AllFailed(DeliberationFailed, tag="FAILED", frozen=True, kw_only=True):
    """Every agent failed."""


class TimedOut(DeliberationFailed, tag="TIMEOUT", frozen=True, kw_only=True):
    """The deadline came before any proposal."""


class DeliberationCancelled(Message, tag_field="status", tag="CANCELLED", frozen=True, kw_only=True):
    """Terminal: somebody asked to stop. `task`, `cost` and `shadows`: see `DeliberationCompleted`."""

    task_id: str
    reason: str
    duration_ms: int
    completed_at: Timestamp
    usage: TotalUsage = TotalUsage()
    task: AcceptedTask | None = None
    tenant: str = DEFAULT_TENANT
    usage_by_model: dict[str, ModelUsage] = {}
    cost: float | None = None
    shadows: ShadowReport | None = None
    correlation: dict[str, str] = {}


TerminalEvent = DeliberationCompleted | AllFailed | TimedOut | DeliberationCancelled


def key_of_event(event: TerminalEvent) -> str:
    """Of the task within the fleet."""
    return key_of(event.tenant, event.task_id)


def status_of(event: TerminalEvent) -> Status:
    """The `status` a terminal event carries."""
    return event.__struct_config__.tag  # type: ignore[return-value]
