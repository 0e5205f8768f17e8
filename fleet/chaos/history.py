"""Defines the record of one run, which `invariants` judges."""

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from fleet import subjects
from fleet.chaos.counters import Life
from fleet.chaos.load import Submission
from fleet.tenants.names import DEFAULT_TENANT


class Event(Struct, frozen=True, kw_only=True):
    """One message of the stream `DELIBERATIONS`; `at` is when NATS stored it, in seconds since 1970. `subject`: as its
    tenant has it. `task_id`: the task's key. `digest`: of its bytes.
    """

    sequence: int
    at: float
    subject: str
    task_id: str
    body: dict[str, Any]
    tenant: str = DEFAULT_TENANT
    digest: str = ""

    @property
    def terminal(self) -> bool:
        return self.subject in subjects.TERMINAL

    @property
    def answers(self) -> tuple[str, int | None]:
        """The request that it is about: its tenant, and the sequence in the stream of that tenant's requests."""
        return self.tenant, self.body.get("stream_sequence")


class Heard(Struct, frozen=True, kw_only=True):
    """A terminal event as a core subscriber in the tenant's own account saw it, with the id that the tenant knows."""

    tenant: str
    subject: str
    task_id: str
    digest: str


class Outage(Struct, frozen=True, kw_only=True):
    """A tenant's own connection was broken."""

    tenant: str
    began: float
    ended: float


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

    `last` is the sequence of the last message in its stream, at the same moment. `tenant`: whose requests it
    reads; each has a consumer of its own, and all of them have one name. `delivered`: deliveries since it was
    `created`, the first ones and those that came again.
    """

    at: float
    consumer: str
    pending: int
    unacknowledged: int
    floor: int
    last: int
    tenant: str = DEFAULT_TENANT
    delivered: int = 0
    created: float = 0.0


class Settled(Struct, frozen=True, kw_only=True):
    """A delivery that a process was seen to settle, or to keep, at first: the message's `sequence` in its stream, which
    `delivery` of it this was, and the `number` of it among all of the consumer's.
    """

    at: float
    consumer: str
    tenant: str
    sequence: int
    delivery: int
    number: int


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
    """Tasks go by their keys. `cancels`: the status in the reply. `answers`: what the reply of `deliberation.ask` said.
    `live`: (subject, key) of terminal events in the order a core subscriber saw them. `waiting`: messages in the work
    queues at the end. `running`: processes of each kind at the end. `heard` and `outages`: of the tenants' own
    connections. `tokens`: what is counted for each tenant. `calls`, `open_calls`, `running`, `heard` and `tokens` are
    None for somebody else's cluster.
    """

    sent: tuple[Submission, ...] = ()
    cancels: dict[str, str] = {}
    answers: dict[str, dict[str, Any]] = {}
    events: tuple[Event, ...] = ()
    live: tuple[tuple[str, str], ...] = ()
    values: dict[str, dict[str, Any]] = {}
    waiting: dict[str, int] = {}
    backlogs: tuple[Backlog, ...] = ()
    settled: tuple[Settled, ...] = ()
    final_backlogs: tuple[Backlog, ...] = ()
    calls: tuple[ModelCall, ...] | None = None
    open_calls: int | None = None
    memory: tuple[Memory, ...] = ()
    injected: tuple[InjectedFault, ...] = ()
    running: dict[str, int] | None = None
    left: tuple[str, ...] = ()
    lives: tuple[Life, ...] = ()
    heard: tuple[Heard, ...] | None = None
    outages: tuple[Outage, ...] = ()
    tokens: dict[str, int] | None = None

    @property
    def accepted(self) -> dict[str, Event]:
        """Key -> its first `deliberation.accepted`."""
        found: dict[str, Event] = {}
        for event in self.events:
            if event.subject == subjects.ACCEPTED:
                found.setdefault(event.task_id, event)
        return found


def of_its_own(history: History) -> History:
    """Without what others do on the same cluster at the same time."""
    asked = {sent.key for sent in history.sent}
    requests = {(sent.request.tenant, sent.sequence) for sent in history.sent}
    events = tuple(
        event
        for event in history.events
        if (event.answers in requests if event.subject == subjects.REJECTED else event.task_id in asked)
    )
    live = tuple((subject, task_id) for subject, task_id in history.live if task_id in asked)
    return replace(history, events=events, live=live, waiting={}, final_backlogs=(), backlogs=(), memory=())
