"""Defines the messages of one agent call: the request, its answer or failure, its progress, and the order to stop."""

from typing import Any, Final, Literal

from fleet.messages.base import ContentRef, Message, Timestamp
from fleet.messages.call_name import CallName
from fleet.messages.error_types import SentErrorType
from fleet.messages.usage import ModelUsage, Usage

DECLINE: Final = "DECLINE:"
"""An author that keeps its proposal answers with this and a reason, instead of a revision."""


class ChatMessage(Message, frozen=True, kw_only=True):
    """One message of a chat completion."""

    role: Literal["system", "user", "assistant"]
    content: str


JudgeKind = Literal["classify", "generative_scoring"]
"""The route of its model server: a reward model's number for a text, or how likely a model is to answer Yes."""


class Judge(Message, frozen=True, kw_only=True):
    """A reviewer that is no member of the council, from the settings (`[judges.NAME]`). `endpoint` absent: all that
    have the model; `model` absent: what the server lists first. `timeout_s`: how long one of its calls may take.
    """

    name: str
    kind: JudgeKind
    model: str | None = None
    endpoint: str | None = None
    timeout_s: float = 30.0

    @property
    def judge_id(self) -> str:
        """What stands where agents have their ids."""
        return f"judge-{self.name}"


class Reward(Message, frozen=True, kw_only=True):
    """What a judge gave to one text: a number without bounds, which says something only beside those of other texts for
    the same task. `kind: classify`: the number of a reward model; `generative_scoring`: the log-odds that its answer is
    Yes. `model`: the one that answered.
    """

    value: float
    kind: JudgeKind
    model: str


class Policy(Message, frozen=True, kw_only=True):
    """Patterns (Python's regular expressions, searched for) that every proposal must, and must not, contain."""

    required: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()


class AgentRequested(CallName, frozen=True, kw_only=True):
    """One agent call, complete: a worker needs nothing else to make it.

    `answer_schema` is a JSON Schema that the answer must satisfy (absent: free text). `labels` maps the labels that the
    prompt uses for proposals ("A", "B" …) to their authors; it never reaches the model. `model` absent: the role's.
    `…_ref`: where a long part lies, which is empty here then: it is stored once for all calls of the deliberation.
    `shared_ref` is that of the first message's content. `judge`: who is asked, where it is no agent of a role.
    """

    messages: tuple[ChatMessage, ...]
    num_agents: int
    deadline_at: Timestamp
    attempt: int = 1
    seed: int | None = None
    model: str | None = None
    diversity: bool = False
    revisions: int = 0
    answer_schema: dict[str, Any] | None = None
    labels: dict[str, str] = {}
    policy: Policy = Policy()
    accept_truncated: bool = False
    judge: Judge | None = None
    shared_ref: ContentRef | None = None
    answer_schema_ref: ContentRef | None = None
    policy_ref: ContentRef | None = None
    correlation_ref: ContentRef | None = None
    correlation: dict[str, str] = {}

    @property
    def shared(self) -> str:
        """What every call of the deliberation begins with: the content of the first message."""
        return self.messages[0].content if self.messages else ""

    def with_shared(self, content: str, ref: ContentRef | None = None) -> "AgentRequested":
        """The same call with another content of its first message."""
        first, *others = self.messages
        return self.change(messages=(first.change(content=content), *others), shared_ref=ref)


class Proposal(Message, frozen=True, kw_only=True):
    """A text that a model wrote. `tokens` are completion tokens, `revisions` counts how often its author rewrote it.

    `content_ref` stands for a `content` too long for one NATS message, which is then empty. `model`: the one that
    answered. `truncated`: the server cut the text, and the request takes such texts.
    """

    content: str
    author_id: str
    author_role: str
    model: str
    temperature: float
    tokens: int
    revisions: int = 0
    finish_reason: str | None = None
    truncated: bool = False
    endpoint: str | None = None
    content_ref: ContentRef | None = None


class EarlierText(Message, frozen=True, kw_only=True):
    """A proposal's text before it was revised. `round`: in which it was written; 0: the first one.

    `content_ref` stands for a `content` too long for one NATS message, which is then empty.
    """

    round: int
    content: str
    content_ref: ContentRef | None = None


class Check(Message, frozen=True, kw_only=True):
    """What a check found in one proposal. `findings` say where and what; a check that passed has none."""

    status: Literal["passed", "failed", "not_applicable"]
    findings: tuple[str, ...] = ()


class Critique(Message, frozen=True, kw_only=True):
    """One reviewer's critique of the proposal of `author_id`. `scores`: 0 … 10 by criterion, for the text as it is."""

    author_id: str
    strengths: tuple[str, ...] = ()
    weaknesses: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    scores: dict[str, float] = {}


class CriterionScore(Message, frozen=True, kw_only=True):
    """0 … 10 for one criterion of the rubric, with a line of reasoning. `drawn`: what the model wrote, where `score` is
    the one that it expects by its log-probabilities; null: `score` is what it wrote.
    """

    score: float
    rationale: str = ""
    drawn: float | None = None


class Scorecard(Message, frozen=True, kw_only=True):
    """One reviewer's scores for the proposal of `author_id`, by criterion.

    `requirements_met` answers the task's requirements, in their order.
    """

    author_id: str
    criteria: dict[str, CriterionScore]
    requirements_met: tuple[bool, ...] = ()


class Choice(Message, frozen=True, kw_only=True):
    """The proposal (of `author_id`) that an agent chose among those it was shown."""

    author_id: str
    rationale: str = ""


class Synthesis(Message, frozen=True, kw_only=True):
    """A text merged from the proposals of `sources`, best first. It stands beside the ranking, never in it.

    `better`: whether reviewers who were shown it and the winner, in both orders, chose it more often; null: nobody was.
    """

    content: str
    author_id: str
    model: str
    tokens: int
    sources: tuple[str, ...] = ()
    better: bool | None = None
    content_ref: ContentRef | None = None


class AttemptTally(Message, frozen=True, kw_only=True):
    """So many attempts at one endpoint for one model that ended alike. `outcome`: `completed` or an error type.

    `reasoning_tokens`: of the completion tokens; `cost` null: not known. `listed`: the server lists this model; else
    only settings or a request have named it.
    """

    endpoint: str
    model: str
    outcome: str
    count: int = 1
    usage: Usage = Usage()
    reasoning_tokens: int = 0
    cost: float | None = None
    listed: bool = False


class CallFacts(Message, frozen=True, kw_only=True):
    """How a call went, for those who count. `delivery`: which delivery of the call this was. `endpoint`, `model` and
    `first_token_ms` are of its last attempt; `hedges`: attempts beside a slow one.
    """

    delivery: int = 1
    endpoint: str | None = None
    model: str | None = None
    first_token_ms: int | None = None
    hedges: int = 0
    hedge_won: bool = False
    attempts: tuple[AttemptTally, ...] = ()


class AgentCompleted(CallName, tag_field="status", tag="completed", frozen=True, kw_only=True):
    """`agent.response.completed`: the call's answer, in the field of its phase.

    `declined`: why an author leaves its proposal as it is. `reasoning`: a reasoning model's thoughts; no agent is shown
    them. `checks`: what was found in the proposal. `notes`: what was done otherwise than asked for, to get an answer at
    all; `degraded`: it is another answer for it (a fallback's, or an incomplete one). `usage_by_model`: `usage` by the
    models that were asked. `reward`: a judge's answer. `correlation_ref`: where a long `correlation` lies, which is
    empty then.
    """

    model: str
    num_agents: int
    duration_ms: int
    timestamp: Timestamp
    proposal: Proposal | None = None
    declined: str | None = None
    critiques: tuple[Critique, ...] | None = None
    scores: tuple[Scorecard, ...] | None = None
    reward: Reward | None = None
    choice: Choice | None = None
    synthesis: Synthesis | None = None
    checks: dict[str, Check] = {}
    reasoning: str | None = None
    notes: tuple[str, ...] = ()
    degraded: bool = False
    diversity: bool = False
    usage: Usage = Usage()
    usage_by_model: dict[str, ModelUsage] = {}
    facts: CallFacts = CallFacts()
    correlation: dict[str, str] = {}
    correlation_ref: ContentRef | None = None


class AgentFailed(CallName, tag_field="status", tag="failed", frozen=True, kw_only=True):
    """`agent.response.failed`: the call gave up. `retryable`: whether the last error was worth another try.

    `usage_by_model`: `usage` by the models that were asked. `correlation_ref` as in `AgentCompleted`.
    """

    error: str
    error_type: SentErrorType
    retryable: bool
    num_agents: int
    duration_ms: int
    timestamp: Timestamp
    usage: Usage = Usage()
    usage_by_model: dict[str, ModelUsage] = {}
    facts: CallFacts = CallFacts()
    correlation: dict[str, str] = {}
    correlation_ref: ContentRef | None = None


AgentResponse = AgentCompleted | AgentFailed


class AgentProgress(CallName, frozen=True, kw_only=True):
    """`agent.response.progress`: `text_delta` is what came since this attempt's previous event."""

    progress_pct: int
    message: str
    text_delta: str
    tokens: int
    timestamp: Timestamp


class AgentStop(Message, frozen=True, kw_only=True):
    """`agent.stop`: close every open call of this task."""

    task_id: str
    run: str = ""
