"""Streams, consumers and buckets: declared here, and only here.

What exists is compared with what is wanted: NATS leaves the settings of an existing durable silently as they were.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import structlog
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    KeyValueConfig,
    ObjectStoreConfig,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import BadRequestError, NotFoundError, ServerError

from fleet import subjects
from fleet.clock import now_ms
from fleet.config import Settings
from fleet.jetstream.payloads import LETTERS_S

log = structlog.get_logger(__name__)

CONTROL_ACK_WAIT_S = 5.0
"""The control plane's handlers take milliseconds: a delivery that is not acknowledged by then died with its process."""
MAX_DELIVER = 50
"""With the delays of `intake`, some twenty minutes in which NATS may take no writes."""
WORKERS_MAX_DELIVER = 20
"""Each costs a call of the model."""
MAX_PENDING = 128
"""Messages with a process, not yet acknowledged. More of them might wait there for so long that they come again; then
what they lead to is looked for before it is published, which is slow, so that still more would wait."""
DUPLICATE_WINDOW_S = 120.0
MINUTE_S, DAY_S = 60.0, 86_400.0


def streams(settings: Settings) -> tuple[StreamConfig, ...]:
    """Every stream, as wanted."""
    limits = settings.limits
    keep_s = limits.results_days * DAY_S

    def stream(name: str, *patterns: str, **more: Any) -> StreamConfig:
        wanted = {
            "description": subjects.DESCRIPTIONS[name],
            "storage": StorageType.FILE,
            "retention": RetentionPolicy.LIMITS,
            "duplicate_window": DUPLICATE_WINDOW_S,
            "num_replicas": limits.replicas,
            "allow_direct": True,
            **more,
        }
        return StreamConfig(name=name, subjects=list(patterns), **wanted)

    work: dict[str, Any] = {"retention": RetentionPolicy.WORK_QUEUE}
    return (
        stream(
            subjects.DELIBERATION_REQUESTS,
            subjects.REQUESTED,
            **work,
            discard=DiscardPolicy.NEW,
            max_msgs=limits.max_waiting_requests,
        ),
        stream(
            subjects.DELIBERATIONS,
            subjects.ACCEPTED,
            subjects.REJECTED,
            *subjects.TERMINAL,
            max_age=keep_s,
        ),
        stream(
            subjects.DELIBERATION_CONTROL,
            "control.>",
            **work,
            allow_msg_schedules=True,
            allow_rollup_hdrs=True,  # comes with schedules
            allow_msg_ttl=True,
        ),
        # A call published again after a crash is the same call: the window outlives any recovery.
        stream(subjects.AGENT_REQUESTS, subjects.AGENT_REQUESTED, **work, max_age=2 * 3600.0),
        stream(
            subjects.AGENT_RESPONSES,
            subjects.AGENT_COMPLETED,
            subjects.AGENT_FAILED,
            max_age=min(DAY_S, keep_s),
        ),
        stream(
            subjects.AGENT_PROGRESS_STREAM,
            subjects.AGENT_PROGRESS,
            storage=StorageType.MEMORY,
            max_age=limits.progress_minutes * MINUTE_S,
            max_bytes=256 * 1024 * 1024,
            duplicate_window=10.0,
        ),
        # A message given up once more, by a process that was away meanwhile, is the same dead letter.
        stream(subjects.DEAD_LETTERS, f"{subjects.DEADLETTER}.>", max_age=30 * DAY_S, duplicate_window=DAY_S),
    )


def consumers(settings: Settings) -> Iterator[tuple[str, ConsumerConfig]]:
    """(stream, consumer), as wanted. Push with a queue group for the control plane, pull for the workers.

    One filter each: with several of them NATS has left out messages, more than once.
    """

    def push(
        stream: str, name: str, deliver: str, filter_: str, pending: int = MAX_PENDING
    ) -> tuple[str, ConsumerConfig]:
        config = ConsumerConfig(
            durable_name=name,
            description=subjects.DESCRIPTIONS[name],
            deliver_subject=deliver,
            deliver_group=name,
            filter_subject=filter_,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=CONTROL_ACK_WAIT_S,
            max_deliver=MAX_DELIVER,
            max_ack_pending=pending,
        )
        return stream, config

    yield push(
        subjects.DELIBERATION_REQUESTS,
        subjects.DISPATCHER,
        subjects.DELIVER_REQUESTS,
        subjects.REQUESTED,
        pending=min(settings.limits.max_in_flight, MAX_PENDING),
    )
    yield push(
        subjects.AGENT_RESPONSES,
        subjects.COLLECTOR,
        subjects.DELIVER_RESPONSES,
        subjects.AGENT_RESPONSE,
    )
    yield push(
        subjects.DELIBERATION_CONTROL,
        subjects.CONTROLLER,
        subjects.DELIVER_CONTROL,
        subjects.CONTROL,
    )
    yield (
        subjects.AGENT_REQUESTS,
        ConsumerConfig(
            durable_name=subjects.WORKERS,
            description=subjects.DESCRIPTIONS[subjects.WORKERS],
            filter_subject=subjects.AGENT_REQUESTED,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=settings.workers.ack_wait_s,
            max_deliver=WORKERS_MAX_DELIVER,
            max_ack_pending=100_000,
            max_waiting=512,
        ),
    )


async def declare(js: JetStreamContext, settings: Settings, created: list[str] | None = None) -> list[str]:
    """Creates what is missing and updates what differs. Safe to run from several processes at once.

    Returns the streams that were missing. They are added to `created`, if given, one by one: it knows of them too when
    a later one fails.
    """
    created = [] if created is None else created
    for stream in streams(settings):
        if await _declare_stream(js, stream):
            created.append(str(stream.name))
    for name, consumer in consumers(settings):
        await _declare_consumer(js, name, consumer)
    ttl_s = settings.limits.results_days * DAY_S
    replicas = settings.limits.replicas
    # With replicas a direct get may answer with an old state.
    described = subjects.DESCRIPTIONS[subjects.BUCKET]
    bucket = KeyValueConfig(
        bucket=subjects.BUCKET, description=described, history=1, ttl=ttl_s, replicas=replicas, direct=replicas == 1
    )
    if await _declare_store(
        js,
        subjects.STATES,
        lambda: js.create_key_value(bucket),
        {"description": described, "num_replicas": replicas, "max_age": ttl_s, "allow_direct": bucket.direct},
    ):
        created.append(subjects.STATES)
    # Each text has a lifetime of its own; this is the longest.
    described = subjects.DESCRIPTIONS[subjects.TEXTS]
    texts = ObjectStoreConfig(
        bucket=subjects.TEXTS, description=described, ttl=max(ttl_s, LETTERS_S), replicas=replicas
    )
    await _declare_store(
        js,
        f"OBJ_{subjects.TEXTS}",
        lambda: js.create_object_store(subjects.TEXTS, texts),
        {
            "description": described,
            "num_replicas": replicas,
            "max_age": float(texts.ttl or 0),
            "allow_msg_ttl": True,
        },
    )
    return created


async def _declare_store(
    js: JetStreamContext, stream: str, create: Callable[[], Awaitable[Any]], wanted: Mapping[str, Any]
) -> bool:
    """A bucket is a stream: what exists is compared with what is wanted, as for every other. Whether it was missing."""
    missing = False
    try:
        existing = (await js.stream_info(stream)).config
    except NotFoundError:
        missing = True
        await create()
        existing = (await js.stream_info(stream)).config
    if changes := differences(existing, SimpleNamespace(**wanted)):
        log.info("stream.updated", stream=stream, changes=changes)
        await js.update_stream(existing.evolve(**wanted))
    return missing


async def _declare_stream(js: JetStreamContext, wanted: StreamConfig) -> bool:
    """Whether it was missing."""
    assert wanted.name is not None
    try:
        existing = (await js.stream_info(wanted.name)).config
    except NotFoundError:
        await _add_stream(js, wanted)
        return True
    if changes := differences(existing, wanted):
        log.warning("stream.updated", stream=wanted.name, changes=changes)
        await js.update_stream(wanted.evolve(first_seq=existing.first_seq))
    return False


async def _add_stream(js: JetStreamContext, wanted: StreamConfig) -> None:
    """Numbers name things: a request's its task, any message's its dead letter. In a stream that replaces a lost one
    they go on, beyond all that there were: milliseconds since 1970. (The buckets are what a new fleet creates last.)
    """
    if await _exists(js, subjects.STATES) or await _exists(js, f"OBJ_{subjects.TEXTS}"):
        wanted = wanted.evolve(first_seq=now_ms())
    try:
        await js.add_stream(wanted)
    except BadRequestError as error:
        if not await _exists(js, str(wanted.name)):
            raise
        log.info("stream.declared_elsewhere", stream=wanted.name, reason=str(error))


async def _exists(js: JetStreamContext, stream: str) -> bool:
    try:
        await js.stream_info(stream)
    except NotFoundError:
        return False
    return True


async def _declare_consumer(js: JetStreamContext, stream: str, wanted: ConsumerConfig) -> None:
    assert wanted.durable_name is not None
    try:
        existing = (await js.consumer_info(stream, wanted.durable_name)).config
        changes = differences(existing, wanted)
        if not changes:
            return
        log.warning("consumer.updated", stream=stream, consumer=wanted.durable_name, changes=changes)
    except NotFoundError:
        pass
    try:
        await js.add_consumer(stream, wanted)
    except (BadRequestError, ServerError) as error:
        # Another replica declared it in between: the same settings, or its own newer ones.
        log.info("consumer.declared_elsewhere", consumer=wanted.durable_name, reason=str(error))


def differences(existing: Any, wanted: Any) -> Mapping[str, tuple[Any, Any]]:
    """Field -> (as it is, as it should be), for the fields that are set in `wanted`."""
    found: dict[str, tuple[Any, Any]] = {}
    for field, value in vars(wanted).items():
        if value is None or field == "name":
            continue
        actual = getattr(existing, field)
        if field == "filter_subject" and existing.filter_subjects:
            first, *others = existing.filter_subjects
            actual = existing.filter_subjects if others else first
        if isinstance(value, float) and isinstance(actual, int | float):
            same = abs(value - actual) < 1e-6
        else:
            same = actual == value or (not actual and not value)
        if not same:
            found[field] = (actual, value)
    return found
