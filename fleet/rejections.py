"""Looking for a rejection that was not heard of: its event may have passed while reconnecting."""

from datetime import UTC, datetime, timedelta

import msgspec
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from fleet import subjects
from fleet.messages import DeliberationRejected, decode

FETCH_WITHIN_S = 5.0


async def find_rejection(js: JetStreamContext, sequence: int, within_s: float) -> bytes | None:
    """The body of `deliberation.rejected` for the request at `sequence`, of the last `within_s` seconds."""
    consumer = await js.add_consumer(
        subjects.DELIBERATIONS,
        ConsumerConfig(
            filter_subject=subjects.REJECTED,
            deliver_policy=DeliverPolicy.BY_START_TIME,
            opt_start_time=(datetime.now(UTC) - timedelta(seconds=within_s)).isoformat(),
            ack_policy=AckPolicy.NONE,
            mem_storage=True,
            num_replicas=1,
            inactive_threshold=30.0,
        ),
    )
    left = consumer.num_pending or 0
    sub = await js.pull_subscribe_bind(consumer.name, stream=subjects.DELIBERATIONS)
    try:
        while left > 0:
            batch = await sub.fetch(min(left, 200), timeout=FETCH_WITHIN_S)
            left -= len(batch)
            for msg in batch:
                body: bytes = msg.data
                if _sequence_of(body) == sequence:
                    return body
        return None
    finally:
        await sub.unsubscribe()
        try:
            await js.delete_consumer(subjects.DELIBERATIONS, consumer.name)
        except NotFoundError:
            pass


def _sequence_of(body: bytes) -> int | None:
    """Of a rejection; None for what is none, whoever published it."""
    try:
        return decode(body, DeliberationRejected).stream_sequence
    except msgspec.MsgspecError:
        return None
