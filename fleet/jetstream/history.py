"""Reads back in the stream of a deliberation's events. Rare: only after something was lost or missed."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta

from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from fleet import subjects
from fleet.jetstream.origin import is_copy
from fleet.jetstream.payloads import MissingText, Texts
from fleet.messages import UNDECODABLE, DeliberationAccepted, DeliberationRejected, decode, of_run
from fleet.tenants.names import key_of_event, of_all, subject_of, without_tenant

BATCH = 500
FETCH_WITHIN_S = 5.0


def terminal_id(key: str, run: str) -> str:
    """The message id of a task's terminal event."""
    return of_run(f"{key}.terminal", run)


async def events(
    js: JetStreamContext,
    subjects_: Sequence[str],
    since: datetime | None,
    *,
    headers_only: bool = False,
    stream: str = subjects.DELIBERATIONS,
    may_delete: bool = True,
    start: int | None = None,
) -> AsyncGenerator[Msg, None]:
    """The events of the `subjects_`, or patterns, that the stream holds now, oldest first; `since` None: all of them,
    or those from the sequence `start` on.

    It reads by a consumer, which it deletes afterwards, or, where it may not, leaves to end by itself.

    Of several subjects NATS 2.15 leaves out what comes before the first message of the last of them, where a consumer
    begins at a time: it is asked for everything then.
    """
    policy = DeliverPolicy.ALL if since is None else DeliverPolicy.BY_START_TIME
    consumer = await js.add_consumer(
        stream,
        ConsumerConfig(
            filter_subject=subjects_[0] if len(subjects_) == 1 else None,
            deliver_policy=policy if start is None else DeliverPolicy.BY_START_SEQUENCE,
            opt_start_time=since,
            opt_start_seq=start,
            ack_policy=AckPolicy.NONE,
            headers_only=headers_only,
            mem_storage=True,
            num_replicas=1,
            inactive_threshold=30.0,
        ),
    )
    left = consumer.num_pending or 0
    sub = await js.pull_subscribe_bind(consumer.name, stream=stream)
    try:
        while left > 0:
            try:
                batch = await sub.fetch(min(left, BATCH), timeout=FETCH_WITHIN_S)
            except TimeoutError:
                if (await js.consumer_info(stream, consumer.name)).num_pending:
                    raise
                break  # what was left has been deleted meanwhile
            left -= len(batch)
            for msg in batch:
                if any(subjects.covers(pattern, msg.subject) for pattern in subjects_) and not is_copy(msg):
                    yield msg
    finally:
        await sub.unsubscribe()
        if may_delete:
            with suppress(NotFoundError):
                await js.delete_consumer(stream, consumer.name)


async def rejections(
    js: JetStreamContext, texts: Texts, tenant: str, within_s: float
) -> AsyncGenerator[tuple[DeliberationRejected, bytes], None]:
    """Each `deliberation.rejected` that a tenant was told in the last seconds, and its body."""
    async with aclosing(events(js, (subject_of(tenant, subjects.REJECTED),), _ago(within_s))) as messages:
        async for msg in messages:
            try:
                body = await texts.inline(msg.data)
                yield decode(body, DeliberationRejected), body
            except (MissingText, *UNDECODABLE):
                continue  # no rejection, whoever published it


async def accepted_keys(js: JetStreamContext, tenant: str, within_s: float) -> AsyncGenerator[str, None]:
    """The key of each task of a tenant that was accepted in the last seconds."""
    accepted = (subject_of(tenant, subjects.ACCEPTED),)
    async with aclosing(events(js, accepted, _ago(within_s), headers_only=True)) as messages:
        async for msg in messages:
            yield key_of_event(msg.subject, msg.header)


async def acceptances(js: JetStreamContext, texts: Texts) -> AsyncGenerator[DeliberationAccepted, None]:
    """All that the stream holds, oldest first; those of tenants after the others."""
    for accepted in of_all(subjects.ACCEPTED):
        async with aclosing(events(js, (accepted,), None)) as messages:
            async for msg in messages:
                try:
                    yield decode(await texts.inline(msg.data), DeliberationAccepted)
                except (MissingText, *UNDECODABLE):
                    continue  # no acceptance, whoever published it


async def find_unended(js: JetStreamContext, texts: Texts, within_s: float) -> list[DeliberationAccepted]:
    """Who was accepted in the last `within_s` seconds and had no terminal event yet."""
    begun: dict[str, DeliberationAccepted] = {}
    ended: set[str] = set()  # ids of terminal events: an acceptance may have been said after the end
    async with aclosing(events(js, of_all(subjects.ACCEPTED, *subjects.TERMINAL), _ago(within_s))) as messages:
        async for msg in messages:
            if without_tenant(msg.subject) == subjects.ACCEPTED:
                try:
                    accepted = decode(await texts.inline(msg.data), DeliberationAccepted)
                except (MissingText, *UNDECODABLE):
                    continue  # no acceptance, whoever published it
                begun[accepted.key] = accepted
            else:
                ended.add((msg.headers or {}).get("Nats-Msg-Id", ""))
    return [accepted for accepted in begun.values() if terminal_id(accepted.key, accepted.run) not in ended]


def _ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)
