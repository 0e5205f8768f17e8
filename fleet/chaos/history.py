"""Defines the record of one run, which `invariants` judges."""

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from fleet import subjects
from fleet.chaos.load import Submission


class Event(Struct, frozen=True, kw_only=True):
    """One message of the stream `DELIBERATIONS`; `at` is when NATS stored it, in seconds since 1970."""

    sequence: int
    at: float
    subject: str
    task_id: str
    body: dict[str, Any]

    @property
    def terminal(self) -> bool:
        return self.subject in subjects.TERMINAL


class ModelCall(Struct, frozen=True, kw_only=True):
    """One chat request as the simulated model server recorded it."""

    request_id: str
    started: float
    ended: float | None = None
    outcome: str = "running"
    digest: str = ""

    @property
    def call_id(self) -> str:
        """Of the agent call that it was an attempt of."""
        return self.request_id.rpartition(".")[0]


class Backlog(Struct, frozen=True, kw_only=True):
    """A consumer at one moment: what waits, what is out and not acknowledged, and how far all is acknowledged.

    `last` is the sequence of the last message in its stream, at the same moment.
    """

    at: float
    consumer: str
    pending: int
    unacknowledged: int
    floor: int
    last: int


class Memory(Struct, frozen=True, kw_only=True):
    """Resident memory of one process at one moment."""

    at: float
    process: str
    bytes: int


class InjectedFault(Struct, frozen=True, kw_only=True):
    """A fault that happened: from when to when, and to what. `ready_at`: when what died was started again."""

    number: int
    kind: str
    target: str
    began: float
    ended: float
    what: str
    ready_at: float | None = None


class History(Struct, frozen=True, kw_only=True):
    """`live`: (subject, task id) of terminal events in the order a core subscriber saw them. `waiting`: messages in
    the work queues at the end. `running`: processes of each kind at the end. `calls`, `open_calls` and `running` are
    None for somebody else's cluster.
    """

    sent: tuple[Submission, ...] = ()
    cancels: dict[str, str] = {}
    events: tuple[Event, ...] = ()
    live: tuple[tuple[str, str], ...] = ()
    values: dict[str, dict[str, Any]] = {}
    waiting: dict[str, int] = {}
    backlogs: tuple[Backlog, ...] = ()
    final_backlogs: tuple[Backlog, ...] = ()
    calls: tuple[ModelCall, ...] | None = None
    open_calls: int | None = None
    memory: tuple[Memory, ...] = ()
    injected: tuple[InjectedFault, ...] = ()
    running: dict[str, int] | None = None
    left: tuple[str, ...] = ()

    @property
    def accepted(self) -> dict[str, Event]:
        """Task id -> its first `deliberation.accepted`."""
        found: dict[str, Event] = {}
        for event in self.events:
            if event.subject == subjects.ACCEPTED:
                found.setdefault(event.task_id, event)
        return found


def of_its_own(history: History) -> History:
    """Without what others do on the same cluster at the same time."""
    asked = {sent.task_id for sent in history.sent}
    sequences = {sent.sequence for sent in history.sent}
    events = tuple(
        event
        for event in history.events
        if (
            event.body["stream_sequence"] in sequences if event.subject == subjects.REJECTED else event.task_id in asked
        )
    )
    live = tuple((subject, task_id) for subject, task_id in history.live if task_id in asked)
    return replace(history, events=events, live=live, waiting={}, final_backlogs=(), backlogs=(), memory=())
