"""Lists what each user of NATS may publish and subscribe to: from the table of streams, and from what else there is.

`deploy/nats/permissions.conf` says the same in the server's words, with a comment where one is needed: a test holds it
against this, line by line. `fleet doctor` compares what the server has granted.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import get_args

from fleet import subjects
from fleet.jetstream.streams import BUCKETS, EVERY_TENANTS, STREAMS, ConsumerSpec, StreamSpec, User, consumed
from fleet.tenants.names import EVERY, TEXT, of_all, requests_of, subject_of, without_tenant

USERS: tuple[User, ...] = get_args(User)
COMPONENTS: tuple[User, ...] = ("control", "worker")
TEXTS, ANSWERS = subjects.TEXTS_STREAM, subjects.ANSWERS_STREAM
_KEYS, _OBJECTS = f"$KV.{subjects.BUCKET}", f"$O.{subjects.TEXTS}"
_OF_WORKERS_STORE = f"$O.{subjects.ANSWERS}"
_ENDPOINTS = (subjects.CANCEL, subjects.RESULT, subjects.ASK, subjects.FOLLOW)
_PROMPT, _PROMPT_STATUS, _HEARTBEAT = (
    subjects.of_fleet(subject, "*") for subject in (subjects.PROMPT, subjects.PROMPT_STATUS, subjects.HEARTBEAT)
)
_ASKING = (*_ENDPOINTS, _PROMPT)
_EVERYBODY = ("$SYS.REQ.USER.INFO", "$JS.FC.>")
"""What may I? Flow control of ordered consumers."""
_INBOX = "_INBOX.>"
_OF_CONTROL, _OF_WORKERS = "_INBOX.control.>", "_INBOX.worker.>"


@dataclass(frozen=True, slots=True)
class Rights:
    """Patterns, as NATS takes them."""

    publish: frozenset[str]
    subscribe: frozenset[str]
    not_publish: frozenset[str] = frozenset()
    not_subscribe: frozenset[str] = frozenset()


def rights_of(user: User, tenants: Collection[str] = ()) -> Rights:
    """All that the user is allowed, and what is taken away from that. `tenants`: whose requests a viewer reads, too."""
    publish = {*_EVERYBODY, *(subject for spec in EVERY_TENANTS for subject in spec.publishers.get(user, ()))}
    publish |= {f"{spec.subject}.{keys}" for spec in BUCKETS for keys in spec.writers.get(user, ())}
    match user:
        case "client":
            return Rights(
                frozenset({*publish, *_client_publishes()}),
                frozenset({_INBOX, *_read_by_clients()}),
                not_publish=frozenset(_consumers_of_others("CREATE", "MSG.NEXT", "DELETE")),
                not_subscribe=frozenset({_OF_CONTROL, _OF_WORKERS}),
            )
        case "viewer":
            return Rights(
                frozenset({*publish, *of_all(subjects.RESULT), *_reads(), *_viewer_gets(tenants)}),
                frozenset({_INBOX, *_read_by_clients(), *_read_by_viewers()}),
                not_publish=frozenset(_consumers_of_others("CREATE", "MSG.NEXT")),
                not_subscribe=frozenset({_OF_CONTROL, _OF_WORKERS}),
            )
        case "control":
            return Rights(frozenset({*publish, *_control_publishes()}), frozenset(_control_subscribes()))
        case "worker":
            return Rights(
                frozenset({*publish, *_worker_publishes()}),
                frozenset({_INBOX, subjects.AGENT_STOP}),
                not_publish=frozenset({subjects.POOL, subjects.TURN}),
                not_subscribe=frozenset({_OF_CONTROL}),
            )
        case "operator":
            return Rights(frozenset({*publish, *_operator_publishes()}), frozenset(_operator_subscribes()))


# --- clients and viewers ----------------------------------------------------------------------------------------------


def _client_publishes() -> Iterator[str]:
    yield from (*_ASKING, *_reads())
    for spec in STREAMS:
        if spec.clients_read is not None:
            yield f"$JS.API.CONSUMER.DELETE.{spec.name}.*"
            if spec.consumer is None:
                yield f"$JS.ACK.{spec.name}.>"
    yield from (
        f"$JS.API.CONSUMER.DELETE.{subjects.STATES}.*",
        # Names and sizes, never a chunk: the server holds the filter against the subject.
        f"$JS.API.DIRECT.GET.{TEXTS}.{_OBJECTS}.M.>",
        f"$JS.API.CONSUMER.CREATE.{TEXTS}.*.{_OBJECTS}.M.>",
        f"$JS.API.CONSUMER.DELETE.{TEXTS}.*",
    )


def _reads() -> Iterator[str]:
    """What changes nothing: also a viewer's."""
    for verb in ("PING", "INFO", "STATS"):  # `nats micro ls|info|stats|ping`
        yield from (f"$SRV.{verb}", f"$SRV.{verb}.>")
    yield _PROMPT_STATUS
    yield from ("$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST")
    yield from ("$JS.API.STREAM.INFO.*", "$JS.API.CONSUMER.INFO.*.*")
    for spec in STREAMS:
        if spec.clients_read == "get":
            yield from _get(spec.name)
        if spec.clients_read is not None:
            yield from _consume(spec)
    yield from _get(subjects.STATES)
    yield from _create_consumers(subjects.STATES)
    yield f"$JS.API.CONSUMER.MSG.NEXT.{subjects.STATES}.*"
    yield from (f"$JS.API.STREAM.MSG.GET.{store}" for store in (TEXTS, ANSWERS))
    yield f"$JS.API.DIRECT.GET.KV_{subjects.WORKERS_BUCKET}.>"  # `fleet status` and `top`: how workers are


def _viewer_gets(tenants: Collection[str]) -> Iterator[str]:
    """What waits, and what nobody could handle. Its answers wrap the message, wherever they go. A pattern for the
    streams of tenants would allow every stream: each is named."""
    named = (spec.name for spec in EVERY_TENANTS if spec.viewer_gets and spec.name != EVERY)
    for name in (*named, *map(requests_of, tenants)):
        yield f"$JS.API.STREAM.MSG.GET.{name}"


def _consume(spec: StreamSpec) -> Iterator[str]:
    """By consumers of one's own. Beside one of the fleet's only by name, which the server holds against the subject."""
    if spec.consumer is None:
        yield f"$JS.API.CONSUMER.CREATE.{spec.name}"
    yield f"$JS.API.CONSUMER.CREATE.{spec.name}.>"
    yield f"$JS.API.CONSUMER.MSG.NEXT.{spec.name}.*"


def _consumers_of_others(*verbs: str) -> Iterator[str]:
    for spec, consumer in consumed():
        if spec.clients_read is not None:
            for verb in verbs:
                yield f"$JS.API.CONSUMER.{verb}.{spec.name}.{consumer.name}"
            yield f"$JS.API.CONSUMER.CREATE.{spec.name}.{consumer.name}.>"


def _read_by_clients() -> Iterator[str]:
    """A client in the fleet's account is one of the default tenant."""
    yield subjects.HEARTBEATS
    for spec in STREAMS:
        if spec.clients_read is not None:
            yield from (subject for subject in spec.subjects if without_tenant(subject) == subject)


def _read_by_viewers() -> Iterator[str]:
    """What tenants are told, too."""
    for spec in STREAMS:
        if spec.clients_read is not None:
            yield from spec.subjects
    yield subject_of(EVERY, subjects.AGENT_PROGRESS)


# --- the control plane ------------------------------------------------------------------------------------------------


def _control_publishes() -> Iterator[str]:
    # An instance that goes away hands over what it has not answered yet.
    yield from of_all(*_ASKING, TEXT)
    yield from (_HEARTBEAT, _PROMPT_STATUS)  # the latter: is another instance there?
    yield from (_INBOX, "_R_.>")  # answers of the service; the second to a client in another account
    yield f"$SRV.PING.{subjects.SERVICE}"
    yield from (subjects.AGENT_STOP, subjects.instance_of("*"))
    # Declares streams, consumers and buckets, and never deletes one of them.
    yield from ("$JS.API.INFO", "$JS.API.STREAM.NAMES")
    yield from (f"$JS.API.STREAM.{verb}.*" for verb in ("INFO", "CREATE", "UPDATE", "MSG.GET"))
    yield from ("$JS.API.CONSUMER.INFO.*.*", "$JS.API.CONSUMER.DURABLE.CREATE.*.*")
    yield from ("$JS.API.DIRECT.GET.*", "$JS.API.DIRECT.GET.*.>")
    for spec, consumer in consumed(EVERY_TENANTS):
        # Tenants' streams are named after them. The pattern for them allows nothing new: to update streams is more.
        yield f"$JS.API.CONSUMER.CREATE.{spec.name}.{f'{consumer.name}.>' if spec.name == EVERY else '>'}"
        if spec.work_queue:  # exhausted messages, once they are dead letters
            yield f"$JS.API.STREAM.MSG.DELETE.{spec.name}"
        if consumer.deliver is not None:
            yield f"$JS.ACK.{spec.name}.{consumer.name}.>"
    # Short-lived consumers: a look for a terminal event, a watch on the bucket.
    yield from _create_consumers(subjects.DELIBERATIONS)
    yield f"$JS.API.CONSUMER.MSG.NEXT.{subjects.DELIBERATIONS}.*"
    yield f"$JS.API.CONSUMER.MSG.NEXT.{subjects.STATES}.*"
    yield f"$JS.ACK.{subjects.DELIBERATIONS}.>"
    yield from _create_consumers(subjects.STATES)
    # Of anybody: those that deliver to the fleet are taken away.
    yield "$JS.API.CONSUMER.LIST.*"
    read = (*(spec.name for spec in STREAMS if spec.clients_read is not None), subjects.STATES, TEXTS)
    yield from (f"$JS.API.CONSUMER.DELETE.{stream}.*" for stream in read)
    yield subjects.purge_of(subjects.DELIBERATION_CONTROL)  # takes a schedule back
    yield subjects.purge_of(TEXTS)  # texts that nobody refers to any more
    yield subjects.purge_of(subjects.STATES)  # states of ended tasks, where room is needed


def _control_subscribes() -> Iterator[str]:
    yield from (_INBOX, "$SRV.>", *of_all(*_ASKING, subjects.REJECTED, *subjects.TERMINAL))
    yield _PROMPT_STATUS
    yield from of_all(TEXT)  # where there are tenants
    yield from (subjects.instance_of("*"), subjects.exhausted("*", "*"))
    yield subjects.CONSUMER_CREATE  # does somebody have one deliver to the fleet?
    yield subjects.purge_of("*")  # what an operator takes away is not waited for
    yield subjects.status_of(">")  # do the model servers answer the workers?
    yield subjects.deadletter_of(subjects.AGENT_REQUESTED)  # those that workers store are counted
    yield from (consumer.deliver for _, consumer in consumed(EVERY_TENANTS) if consumer.deliver is not None)


# --- workers ----------------------------------------------------------------------------------------------------------


def _worker_publishes() -> Iterator[str]:
    yield from ("$JS.API.INFO", "$JS.API.STREAM.NAMES")
    yield subject_of(EVERY, subjects.AGENT_PROGRESS)
    for spec, consumer in consumed():
        if consumer.deliver is None:
            yield from _pull(spec, consumer)
    yield f"$JS.API.STREAM.INFO.{subjects.STATES}"  # has the task ended meanwhile?
    yield from _get(subjects.STATES)
    yield f"$JS.API.DIRECT.GET.KV_{subjects.WORKERS_BUCKET}.>"  # the shares of limits
    yield f"$JS.API.STREAM.MSG.GET.{TEXTS}"  # what is longer than a message
    yield f"$JS.API.DIRECT.GET.{ANSWERS}.{_OF_WORKERS_STORE}.M.>"  # notes, and never a chunk


def _pull(spec: StreamSpec, consumer: ConsumerSpec) -> Iterator[str]:
    yield f"$JS.API.STREAM.INFO.{spec.name}"
    yield f"$JS.API.CONSUMER.INFO.{spec.name}.{consumer.name}"
    yield f"$JS.API.CONSUMER.MSG.NEXT.{spec.name}.{consumer.name}"
    yield f"$JS.ACK.{spec.name}.{consumer.name}.>"


# --- the operator -----------------------------------------------------------------------------------------------------


def _operator_publishes() -> Iterator[str]:
    yield from (*of_all(*_ASKING), _PROMPT_STATUS, "$SRV.>")  # as a client, of any tenant
    for spec, _ in consumed(EVERY_TENANTS):  # `fleet deadletter replay` puts a message back where it came from
        yield from spec.delivered
    yield from ("$JS.API.>", "$JS.ACK.>")  # repair by hand, streams and all
    yield from ("$JS.SNAPSHOT.ACK.>", "$JS.SNAPSHOT.RESTORE.>")  # `nats backup account`, `nats backup restore account`


def _operator_subscribes() -> Iterator[str]:
    """Everything of the fleet: by the first token of its subjects."""
    yield from (_INBOX, "agents.>", "$JS.EVENT.>", f"{_KEYS}.>", f"{_OBJECTS}.>", f"{_OF_WORKERS_STORE}.>")
    for spec in EVERY_TENANTS:
        for subject in spec.subjects:
            yield f"{subject.partition('.')[0]}.>"


# --- both -------------------------------------------------------------------------------------------------------------


def _get(stream: str) -> Iterator[str]:
    yield f"$JS.API.STREAM.MSG.GET.{stream}"
    yield from (f"$JS.API.DIRECT.GET.{stream}", f"$JS.API.DIRECT.GET.{stream}.>")


def _create_consumers(stream: str) -> Iterator[str]:
    yield from (f"$JS.API.CONSUMER.CREATE.{stream}", f"$JS.API.CONSUMER.CREATE.{stream}.>")
