"""What is known of one deliberation. The KV value is this struct as JSON, so a person can read it."""

from typing import Any, Literal

import msgspec

from fleet.messages import (
    SCHEMA_VERSION,
    Critique,
    FailedCall,
    Message,
    Phase,
    Progress,
    Proposal,
    Scorecard,
    Status,
    TerminalEvent,
    Usage,
)
from fleet.requests import Task

CallStatus = Literal["open", "completed", "failed"]


class Candidate(Message, frozen=True, kw_only=True):
    """An agent's proposal as it stands. `duration_ms` is the time its propose and revise calls took together."""

    proposal: Proposal
    duration_ms: int


class CritiqueCall(Message, frozen=True, kw_only=True):
    """One reviewer's critiques of one round."""

    reviewer_id: str
    round: int
    critiques: tuple[Critique, ...]


class Deliberation(Message, frozen=True, kw_only=True):
    """State of one task. `calls` holds the calls of the current phase by agent; `cause` names the deliveries that the
    last transition came from, so that a redelivery of one of them publishes what it owed (see `machine.due`).
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
    candidates: dict[str, Candidate] = {}
    critiques: tuple[CritiqueCall, ...] = ()
    scores: dict[str, tuple[Scorecard, ...]] = {}
    failures: tuple[FailedCall, ...] = ()
    rounds_run: int = 0
    usage: Usage = Usage()
    calls_ended: int = 0
    cause: tuple[str, ...] = ()
    traceparent: str | None = None
    result: TerminalEvent | None = None
    schema: int = SCHEMA_VERSION

    @property
    def ended(self) -> bool:
        """Whether the terminal event is decided."""
        return self.result is not None

    @property
    def progress(self) -> Progress:
        """Calls of the current phase."""
        done = sum(status != "open" for status in self.calls.values())
        return Progress(phase=self.phase, round=self.round, done=done, expected=len(self.calls))

    def change(self, **fields: Any) -> "Deliberation":
        """A copy with some fields replaced."""
        return msgspec.structs.replace(self, **fields)
