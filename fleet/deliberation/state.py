"""Defines the state of one deliberation. The KV value is this struct as JSON, so that a person can read it."""

from typing import Final, Literal

from fleet.deliberation.drawing import DrawnModels
from fleet.messages import (
    Check,
    Comparison,
    Critique,
    Declined,
    EarlierText,
    FailedCall,
    Judge,
    Message,
    ModelUsage,
    Phase,
    Progress,
    Proposal,
    Reward,
    Scorecard,
    Status,
    StopReason,
    Synthesis,
    TerminalEvent,
    Usage,
)
from fleet.requests.task import Task
from fleet.tenants.names import TaskName, name_of

SCHEMA_VERSION: Final = 8
"""Raised with every field that is added: an older version, which would lose it, leaves such a state alone."""
CallStatus = Literal["open", "completed", "failed"]


class Candidate(Message, frozen=True, kw_only=True):
    """An agent's proposal as it stands. `duration_ms` is the time its propose and revise calls took together;
    `similarity` that of the text to the one before, by round; `round` the one in which it was written; `earlier` its
    author's texts before it.
    """

    proposal: Proposal
    duration_ms: int
    checks: dict[str, Check] = {}
    declined: tuple[Declined, ...] = ()
    similarity: dict[int, float] = {}
    round: int = 0
    earlier: tuple[EarlierText, ...] = ()


class Shadow(Message, frozen=True, kw_only=True):
    """A model on trial: a further agent of a role."""

    agent_id: str
    role: str
    model: str


class Shadows(Message, frozen=True, kw_only=True):
    """What runs beside the council, see `shadows.course`.

    `calls`: for proposals, by the shadow's id, and later for scores, by the slot of the member who gives them;
    `scores`: by that member; `judges`: the model that gave them. `since`, `until`: when the council came to its end,
    and how long it waits for what is open; null: it does not wait.
    """

    agents: tuple[Shadow, ...]
    calls: dict[str, CallStatus]
    candidates: dict[str, Candidate] = {}
    scores: dict[str, tuple[Scorecard, ...]] = {}
    judges: dict[str, str] = {}
    failures: tuple[FailedCall, ...] = ()
    usage: Usage = Usage()
    usage_by_model: dict[str, ModelUsage] = {}
    calls_ended: int = 0
    since: str | None = None
    until: str | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of its agents."""
        return tuple(each.agent_id for each in self.agents)


class CritiqueCall(Message, frozen=True, kw_only=True):
    """One reviewer's critiques of one round."""

    reviewer_id: str
    round: int
    critiques: tuple[Critique, ...]


class PhaseRecord(Message, frozen=True, kw_only=True):
    """A phase that began: when (ms since 1970), the tokens its ended calls used, and the time of the longest one."""

    phase: Phase
    round: int
    began_ms: int
    tokens: int = 0
    longest_ms: int = 0


class Deliberation(Message, frozen=True, kw_only=True):
    """State of one task. `task_id` is its key within the fleet (`tenants.names`), `name` what its client calls it.
    `calls` holds the calls of the current phase by slot; `cause` names the deliveries that the
    last transition came from, so that a redelivery of one of them publishes its effects again (see `machine.due`).
    `rubric`: the request's, or its role's; null: the default one. `ignored_fields`: unknown fields of the request.
    `written_by`: the connection of the process that decided the last transition, which also publishes its effects;
    empty: not known. `run` and `message_id`: of the request, see `Requested`; an older version has written neither.
    """

    task_id: str
    status: Status
    phase: Phase
    round: int
    task: Task
    seed: int
    stream_sequence: int
    accepted_at: str
    deadline_at: str
    agents: tuple[str, ...]
    calls: dict[str, CallStatus]
    run: str = ""
    message_id: str | None = None
    rubric: str | dict[str, float] | None = None
    ignored_fields: tuple[str, ...] = ()
    candidates: dict[str, Candidate] = {}
    critiques: tuple[CritiqueCall, ...] = ()
    scores: dict[str, tuple[Scorecard, ...]] = {}
    reading: int = 1
    second_orders: dict[str, tuple[str, ...]] = {}
    """By reviewer: authors of the proposals that it reads in the second reading of the score phase."""
    second_scores: dict[str, tuple[Scorecard, ...]] = {}
    judges: tuple[Judge, ...] = ()
    rewards: dict[str, dict[str, Reward]] = {}
    """By judge, and by author."""
    verdict_round: int = 0
    """The round whose critiques are the final scores; 0: none, the score phase gives them."""
    comparisons: tuple[Comparison, ...] = ()
    synthesis: Synthesis | None = None
    failures: tuple[FailedCall, ...] = ()
    phases: tuple[PhaseRecord, ...] = ()
    rounds_run: int = 0
    stop_reason: StopReason | None = None
    stop_explanation: str = ""
    cut_short: bool = False
    notes: tuple[str, ...] = ()
    impaired: bool = False
    """Whether an answer that counts is a fallback's, or incomplete."""
    models: dict[str, DrawnModels] = {}
    """By agent, where its role has several."""
    cache_key: str = ""
    """What all equal requests have; empty: others are not answered with this one's result."""
    look_at: str | None = None
    """When it looks again for the result of an equal request; null: it does not wait for one."""
    followers: tuple[str, ...] = ()
    """Keys of equal requests that wait for this one's result."""
    shadows: Shadows | None = None
    usage: Usage = Usage()
    usage_by_model: dict[str, ModelUsage] = {}
    calls_ended: int = 0
    cause: tuple[str, ...] = ()
    written_by: str = ""
    traceparent: str | None = None
    result: TerminalEvent | None = None
    schema: int = SCHEMA_VERSION

    @property
    def name(self) -> TaskName:
        """Whose task it is, and its id there: what events and replies tell."""
        return name_of(self.task_id)

    @property
    def ended(self) -> bool:
        """Whether the terminal event is decided."""
        return self.result is not None

    @property
    def progress(self) -> Progress:
        """Calls of the current phase."""
        done = sum(status != "open" for status in self.calls.values())
        return Progress(phase=self.phase, round=self.round, done=done, expected=len(self.calls))

    @property
    def ranked_agents(self) -> tuple[str, ...]:
        """Those with a proposal, in agent order."""
        return tuple(agent for agent in self.agents if agent in self.candidates)

    def role_of(self, agent: str) -> str:
        """The role that an agent of the council, or a shadow, takes."""
        if (shadow := self._shadow(agent)) is not None:
            return shadow.role
        roles = self.task.roles or (self.task.role,)
        return roles[self.agents.index(agent) % len(roles)]

    def model_of(self, agent: str) -> str | None:
        """The model that `options.models` gives an agent, or that was drawn for this phase; None: its role's."""
        if (shadow := self._shadow(agent)) is not None:
            return shadow.model
        models = self.task.models
        if models:
            return models[self.agents.index(agent) % len(models)]
        return self.models[agent].of(self.phase) if agent in self.models else None

    def _shadow(self, agent: str) -> Shadow | None:
        shadows = self.shadows.agents if self.shadows is not None else ()
        return next((each for each in shadows if each.agent_id == agent), None)

    @property
    def waits(self) -> bool:
        """Whether it waits for the result of an equal request."""
        return self.look_at is not None

    @property
    def timer_at(self) -> str:
        """When it is ended at the latest: at its deadline or, once its council has come to its end, before. While it
        waits: when it looks again.
        """
        if self.look_at is not None:
            return self.look_at
        return self.deadline_at if self.shadows is None else self.shadows.until or self.deadline_at

    def record(self, phase: Phase) -> PhaseRecord:
        """What is known of a phase of the current round; nothing was spent on one that is not on record."""
        for record in self.phases:
            if (record.phase, record.round) == (phase, self.round):
                return record
        return PhaseRecord(phase=phase, round=self.round, began_ms=0)


def seats(task: Task) -> tuple[str, ...]:
    """`agent-<role in lower case>-<001 …>`, numbered within each role."""
    roles = task.roles or (task.role,)
    taken: dict[str, int] = {}
    named = []
    for place in range(task.num_agents):
        role = roles[place % len(roles)].lower()
        taken[role] = taken.get(role, 0) + 1
        named.append(f"agent-{role}-{taken[role]:03d}")
    return tuple(named)
