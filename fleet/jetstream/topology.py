"""Declares streams, consumers and buckets. Nothing else does.

What exists is compared with its declaration: NATS leaves the settings of an existing durable silently as they were.
"""

import asyncio
from collections.abc import Collection, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import structlog
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    RetentionPolicy,
    StreamConfig,
)
from nats.js.errors import BadRequestError, NotFoundError, ServerError

from fleet import subjects
from fleet.clock import now_ms
from fleet.config import Settings
from fleet.errors import Unreachable
from fleet.event_loop import all_of
from fleet.jetstream.declaring import buckets, ownership
from fleet.jetstream.declaring.differences import changed, drift, refuse_other_storage
from fleet.jetstream.declaring.refusals import HELP, told
from fleet.jetstream.declaring.sizes import size_config
from fleet.jetstream.lifetimes import (
    ANSWERS_S,
    CALLS_S,
    CONTROL_ACK_WAIT_S,
    COUNTERS_S,
    DAY_S,
    DUPLICATE_WINDOW_S,
    LETTERS_S,
    MINUTE_S,
)
from fleet.jetstream.streams import BUCKETS, ConsumerSpec, StreamSpec, consumed, with_tenants
from fleet.tenants.limits import as_metadata
from fleet.tenants.names import holds_requests, tenant_of, without_tenant

log = structlog.get_logger(__name__)

_FIND = ": another one takes its subject. See `nats consumer ls {stream}`, and delete it"
TAKEN = {10099: _FIND, 10100: _FIND}
"""By JetStream's error code: of a work queue each message has one consumer."""

MAX_DELIVER = 50
"""With the delays of `intake`, some twenty minutes in which NATS may take no writes."""
COUNTS_KEPT = 256
"""Of each tenant's day. A server that begins anew knows the message ids of those that it still has, and no others: more
than there may be ends that are counted and not published."""
WORKERS_MAX_DELIVER = 20
"""Each costs a call of the model."""
MAX_PENDING = 128
"""Messages with a process, not yet acknowledged. More of them might wait there for so long that they come again; then
what they lead to is looked for before it is published, which is slow, so that still more would wait."""


def streams(settings: Settings) -> tuple[StreamConfig, ...]:
    """The declaration of every stream."""
    limits = settings.limits
    keep_s = limits.results_days * DAY_S
    more: dict[str, dict[str, Any]] = {
        subjects.DELIBERATIONS: {"max_age": keep_s},
        subjects.DELIBERATION_CONTROL: {
            "allow_msg_schedules": True,
            "allow_rollup_hdrs": True,  # comes with schedules
            "allow_msg_ttl": True,
        },
        # A call published again after a crash is the same call: the window outlives any recovery.
        subjects.AGENT_REQUESTS: {"max_age": CALLS_S},
        subjects.AGENT_RESPONSES: {"max_age": min(ANSWERS_S, keep_s)},
        subjects.AGENT_PROGRESS_STREAM: {
            "max_age": limits.progress_minutes * MINUTE_S,
            "duplicate_window": 10.0,
        },
        # A deliberation is counted once, whoever ends it again within a day.
        subjects.TENANT_TOKENS: {
            "allow_msg_counter": True,
            "max_msgs_per_subject": COUNTS_KEPT,
            "max_age": COUNTERS_S,
            "duplicate_window": DAY_S,
        },
        # A message given up once more, by a process that was away meanwhile, is the same dead letter.
        subjects.DEAD_LETTERS: {"max_age": LETTERS_S, "duplicate_window": DAY_S},
    }
    common = {
        "duplicate_window": DUPLICATE_WINDOW_S,
        "num_replicas": limits.replicas,
        "allow_direct": True,
        "max_age": 0.0,  # for ever
        "metadata": ownership.mark(settings.fleet_name),
    }
    return tuple(
        StreamConfig(
            name=spec.name,
            description=subjects.DESCRIPTIONS[_kind(spec)],
            subjects=list(spec.subjects),
            retention=RetentionPolicy.WORK_QUEUE if spec.work_queue else RetentionPolicy.LIMITS,
            discard=DiscardPolicy.OLD if spec.drops_oldest else DiscardPolicy.NEW,
            **size_config(settings, spec.name),
            **{**common, **(_waiting(spec, settings) if holds_requests(spec.name) else more[spec.name])},
        )
        for spec in with_tenants(settings.tenants)
    )


def _kind(spec: StreamSpec) -> str:
    return subjects.DELIBERATION_REQUESTS if holds_requests(spec.name) else spec.name


def _waiting(spec: StreamSpec, settings: Settings) -> dict[str, Any]:
    """How many requests of one tenant may wait; and what the settings say of it, for whoever looks."""
    most = settings.limits.max_waiting_requests
    tenant = settings.tenants.get(tenant_of(spec.subjects[0]))
    if tenant is None:
        return {"max_msgs": most}
    metadata = ownership.mark(settings.fleet_name) | as_metadata(tenant)
    return {"max_msgs": tenant.max_waiting or most, "metadata": metadata}


def consumers(settings: Settings) -> Iterator[tuple[str, ConsumerConfig]]:
    """(stream, consumer declaration). Push with a queue group for the control plane, pull for the workers."""
    for spec, consumer in consumed(with_tenants(settings.tenants)):
        yield spec.name, _consumer(consumer, settings)


def _consumer(spec: ConsumerSpec, settings: Settings) -> ConsumerConfig:
    if spec.deliver is None:
        limits: dict[str, Any] = {
            "ack_wait": settings.workers.ack_wait_s,
            "max_deliver": WORKERS_MAX_DELIVER,
            "max_ack_pending": 100_000,
            "max_waiting": 512,
        }
    else:
        admits = min(settings.limits.max_in_flight, MAX_PENDING)
        limits = {
            "deliver_subject": spec.deliver,
            "deliver_group": spec.name,
            "ack_wait": CONTROL_ACK_WAIT_S,
            "max_deliver": MAX_DELIVER,
            "max_ack_pending": admits if spec.name == subjects.DISPATCHER else MAX_PENDING,
        }
    return ConsumerConfig(
        durable_name=spec.name,
        description=subjects.DESCRIPTIONS[spec.name],
        filter_subject=spec.filter,
        ack_policy=AckPolicy.EXPLICIT,
        metadata=ownership.mark(settings.fleet_name),
        **limits,
    )


def all_streams(settings: Settings) -> dict[str, Any]:
    """Name -> declaration, of every stream and of those behind buckets: the settings that the fleet cares about."""
    behind = {spec.stream: SimpleNamespace(**buckets.config_of(spec, settings)) for spec in BUCKETS}
    return {str(stream.name): stream for stream in streams(settings)} | behind


async def declare(
    js: JetStreamContext, settings: Settings, created: list[str] | None = None, known: Collection[str] = ()
) -> list[str]:
    """Creates what is missing and updates what differs. Safe to run from several processes at once.

    Returns the streams that were missing. They are added to `created`, if given, one by one: it knows of them too when
    a later one fails. Raises `ConfigError`, and changes nothing, where one of them is not this fleet's; `Unreachable`,
    after all else was declared, where a consumer of others takes what one of ours should.
    `known`: streams that were a moment ago.
    """
    created = [] if created is None else created
    existing = await _existing(js, [*all_streams(settings)])
    _check_ownership(existing, settings, known)
    for stream in streams(settings):  # in order: what the server has no room for is the same one every time
        await _declare_stream(js, stream, existing, created)
    try:
        await all_of(_declare_consumer(js, name, consumer) for name, consumer in consumers(settings))
    finally:
        await buckets.declare(js, settings, existing, created)
    return created


async def _existing(js: JetStreamContext, names: Collection[str]) -> dict[str, StreamConfig]:
    async def read(name: str) -> StreamConfig | None:
        try:
            return (await js.stream_info(name)).config
        except NotFoundError:
            return None

    found = await asyncio.gather(*(read(name) for name in names))
    return {name: config for name, config in zip(names, found, strict=True) if config is not None}


def _check_ownership(existing: Mapping[str, StreamConfig], settings: Settings, known: Collection[str]) -> None:
    declared = {str(stream.name): [frozenset(stream.subjects or ())] for stream in streams(settings)}
    for subjects_ in declared.values():  # before there were tenants
        subjects_.append(frozenset(subject for subject in subjects_[0] if _is_default(subject)))
    declared[subjects.DELIBERATION_CONTROL].append(frozenset({"control.>"}))  # until 0.1.0
    stores = {spec.stream: subjects.DESCRIPTIONS[spec.name] for spec in BUCKETS}
    ownership.check(existing, settings.fleet_name, declared, stores, known)


def _is_default(subject: str) -> bool:
    return without_tenant(subject) == subject and subject != subjects.schedule_of("*.*")


async def _declare_stream(
    js: JetStreamContext, declared: StreamConfig, existing: Mapping[str, StreamConfig], created: list[str]
) -> None:
    name = str(declared.name)
    with told(f"the stream {name}"):
        if name not in existing:
            # Numbers name things: a request's its task, any message's its dead letter. In a stream that replaces a lost
            # one they go on, beyond all that there were: milliseconds since 1970. (The buckets are what a new fleet
            # creates last.)
            replaces = subjects.STATES in existing or subjects.TEXTS_STREAM in existing
            await _add_stream(js, declared.evolve(first_seq=now_ms()) if replaces else declared)
            created.append(name)
        elif changes := drift(existing[name], declared):
            log.warning("stream.updated", stream=name, changes=changes)
            refuse_other_storage(name, changes)
            await js.update_stream(changed(existing[name], changes))


async def _add_stream(js: JetStreamContext, declared: StreamConfig) -> None:
    try:
        await js.add_stream(declared)
    except BadRequestError as error:
        if not await _existing(js, [str(declared.name)]):
            raise
        log.info("stream.declared_elsewhere", stream=declared.name, reason=str(error))


async def _declare_consumer(js: JetStreamContext, stream: str, declared: ConsumerConfig) -> None:
    assert declared.durable_name is not None
    name = declared.durable_name
    with told(f"the consumer {name} of {stream}"):
        try:
            existing = (await js.consumer_info(stream, name)).config
        except NotFoundError:
            pass
        else:
            changes = drift(existing, declared)
            if not changes:
                return
            log.warning("consumer.updated", stream=stream, consumer=name, changes=changes)
            declared = changed(existing, changes)
        try:
            await js.add_consumer(stream, declared)
        except (BadRequestError, ServerError) as error:
            try:
                await js.consumer_info(stream, name)
            except NotFoundError:
                if error.err_code in HELP:
                    raise error from None
                help_ = TAKEN.get(error.err_code or 0, "").format(stream=stream)
                raise Unreachable(f"NATS refuses the consumer {name} of {stream}: {error.description}{help_}") from None
            # Another replica declared it in between: the same settings, or its own newer ones.
            log.info("consumer.declared_elsewhere", consumer=name, reason=str(error))
