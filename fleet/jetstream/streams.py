"""Lists all streams and buckets: what each one takes, from whom, who reads it, what a task needs after its loss.

`topology` declares them, and adds the limits that are settings; `rights`, dead letters and recovery go by the table
alone. So do the handlers: what a consumer delivers is said here, and nowhere else.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from fleet import subjects
from fleet.tenants.names import DEFAULT_TENANT, EVERY, of_all, requests_of, subject_of, tokens_on

User = Literal["client", "viewer", "control", "worker", "operator"]
"""As `deploy/nats/permissions.conf` names them."""


@dataclass(frozen=True, slots=True)
class ConsumerSpec:
    """A durable. One filter each: with several of them NATS has left out messages, more than once.

    `deliver`: the subject that a push consumer delivers to, for the control plane; None: workers pull.
    """

    name: str
    filter: str
    deliver: str | None = None


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """`publishers`: who publishes what; the operator may put back whatever has a consumer. `work_queue`: a message is
    gone once it is acknowledged. `clients_read`: by consumers of their own, or one by one, too. `viewer_gets`: one by
    one, by a viewer alone. `deadlines`: it holds them; lost ones are published again at once. `drops_oldest`: what it
    does at its limit; else it refuses what is new (see `capacity`).
    """

    name: str
    subjects: tuple[str, ...]
    consumer: ConsumerSpec | None = None
    publishers: Mapping[User, tuple[str, ...]] = field(default_factory=dict)
    work_queue: bool = False
    clients_read: Literal["consume", "get"] | None = None
    viewer_gets: bool = False
    deadlines: bool = False
    drops_oldest: bool = False

    @property
    def delivered(self) -> tuple[str, ...]:
        """The subjects that its consumer delivers."""
        pattern = self.consumer.filter if self.consumer is not None else ""
        return tuple(subject for subject in self.subjects if subjects.covers(pattern, subject))


_EVENTS = of_all(subjects.ACCEPTED, subjects.REJECTED, *subjects.TERMINAL)
_SCHEDULES = (subjects.schedule_of("*"), subjects.schedule_of("*.*"))
_ANSWERS = (subjects.AGENT_COMPLETED, subjects.AGENT_FAILED)


def _requests(tenant: str) -> StreamSpec:
    """A tenant's requests. `EVERY`: of all tenants but the default one, as permissions name them."""
    requested = subject_of(tenant, subjects.REQUESTED)
    # `deliberation.ask` publishes it for the caller; the server does it for a tenant's account.
    publishers: dict[User, tuple[str, ...]] = {"control": (requested,)}
    deliver = subjects.DELIVER_REQUESTS
    if tenant == DEFAULT_TENANT:
        publishers["client"] = (requested,)
    else:
        deliver = f"{deliver}.{tenant}"
    return StreamSpec(
        requests_of(tenant),
        (requested,),
        ConsumerSpec(subjects.DISPATCHER, requested, deliver),
        publishers=publishers,
        work_queue=True,
        viewer_gets=True,
    )


STREAMS: Final = (
    _requests(DEFAULT_TENANT),
    StreamSpec(
        subjects.DELIBERATIONS,
        _EVENTS,
        publishers={"control": _EVENTS},
        clients_read="get",
        drops_oldest=True,
    ),
    StreamSpec(
        subjects.DELIBERATION_CONTROL,
        (subjects.CONTROL_CANCEL, subjects.CONTROL_DEADLINE, subjects.CONTROL_LOOK, *_SCHEDULES),
        ConsumerSpec(subjects.CONTROLLER, subjects.CONTROL, subjects.DELIVER_CONTROL),
        # `control.deadline` comes from the server itself, when its schedule is due.
        publishers={"control": (subjects.CONTROL_CANCEL, subjects.CONTROL_LOOK, *_SCHEDULES)},
        work_queue=True,
        drops_oldest=True,
        deadlines=True,
    ),
    StreamSpec(
        subjects.AGENT_REQUESTS,
        (subjects.AGENT_REQUESTED,),
        ConsumerSpec(subjects.WORKERS, subjects.AGENT_REQUESTED),
        publishers={"control": (subjects.AGENT_REQUESTED,)},
        work_queue=True,
    ),
    StreamSpec(
        subjects.AGENT_RESPONSES,
        _ANSWERS,
        ConsumerSpec(subjects.COLLECTOR, subjects.AGENT_RESPONSE, subjects.DELIVER_RESPONSES),
        # The control plane answers for a call that no worker could take.
        publishers={"worker": _ANSWERS, "control": (subjects.AGENT_FAILED,)},
        clients_read="consume",
        drops_oldest=True,
    ),
    StreamSpec(
        subjects.AGENT_PROGRESS_STREAM,
        (subjects.AGENT_PROGRESS,),
        publishers={"worker": (subjects.AGENT_PROGRESS,)},
        clients_read="consume",
        drops_oldest=True,
    ),
    StreamSpec(
        subjects.DEAD_LETTERS,
        (subjects.deadletter_of(">"),),
        # A worker's is a call that it cannot read; the operator's are notes of what was replayed.
        publishers={
            "control": (subjects.deadletter_of(">"),),
            "worker": (subjects.deadletter_of(subjects.AGENT_REQUESTED),),
            "operator": (subjects.replayed("*"),),
        },
        viewer_gets=True,
        drops_oldest=True,
    ),
)


@dataclass(frozen=True, slots=True)
class BucketSpec:
    """`writers`: who writes which keys, as patterns. `append_only`: what is stored is neither replaced nor deleted,
    and the first of a name counts. Then a writer that is broken into can add to it, and no more.
    """

    name: str
    kind: Literal["keys", "objects"]
    writers: Mapping[User, tuple[str, ...]]
    append_only: bool = False

    @property
    def stream(self) -> str:
        """The stream that holds the bucket."""
        return f"{'KV' if self.kind == 'keys' else 'OBJ'}_{self.name}"

    @property
    def subject(self) -> str:
        """What the subjects of its keys begin with."""
        return f"{'$KV' if self.kind == 'keys' else '$O'}.{self.name}"

    @property
    def subjects(self) -> tuple[str, ...]:
        """What its stream takes: keys, or chunks and what is said of them."""
        return (f"{self.subject}.>",) if self.kind == "keys" else (f"{self.subject}.C.>", f"{self.subject}.M.>")


BUCKETS: Final = (
    BucketSpec(subjects.BUCKET, "keys", {"control": (">",), "operator": (">",)}),
    BucketSpec(subjects.WORKERS_BUCKET, "keys", {"worker": (">",), "control": (subjects.POOL_KEY, subjects.TURN_KEY)}),
    BucketSpec(subjects.KEYS, "keys", {"control": ("*",)}),
    BucketSpec(subjects.CACHE, "keys", {"control": ("*.*",), "operator": ("*.*",)}),
    BucketSpec(subjects.TEXTS, "objects", {"control": (">",), "operator": (">",)}),
    BucketSpec(subjects.ANSWERS, "objects", {"worker": (">",), "operator": (">",)}, append_only=True),
)


_TOKENS = StreamSpec(
    subjects.TENANT_TOKENS,
    (tokens_on(EVERY, "*"),),
    publishers={"control": (tokens_on(EVERY, "*"),)},
    viewer_gets=True,
    drops_oldest=True,
)
EVERY_TENANTS: Final = (*STREAMS, _TOKENS, _requests(EVERY))
"""With a pattern for the streams of tenants: what permissions go by."""


def with_tenants(names: Collection[str]) -> tuple[StreamSpec, ...]:
    """All streams of a fleet that has these tenants."""
    return (*STREAMS, _TOKENS, *map(_requests, names)) if names else STREAMS


def consumed(specs: Collection[StreamSpec] = STREAMS) -> Iterator[tuple[StreamSpec, ConsumerSpec]]:
    """The streams that have a consumer, with it."""
    for spec in specs:
        if spec.consumer is not None:
            yield spec, spec.consumer


def of_consumer(name: str, tenant: str = DEFAULT_TENANT) -> tuple[StreamSpec, ConsumerSpec]:
    """The stream that the durable of this name reads; each tenant has a dispatchers' one."""
    specs = STREAMS if tenant == DEFAULT_TENANT else (_requests(tenant),)
    return next((spec, consumer) for spec, consumer in consumed(specs) if consumer.name == name)
