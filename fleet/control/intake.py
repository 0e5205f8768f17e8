"""From JetStream through FastStream to an event: what the dispatcher and the collector have in common.

The handlers return at once (the runner acknowledges), so one slow task never holds up another; `max_ack_pending` of the
durable bounds what is in flight.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Any, Generic, TypeVar

import nats.errors
import structlog
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, NatsMessage
from nats.aio.msg import Msg

from fleet.config import Settings
from fleet.control.outbox import Outbox
from fleet.control.recovery.dead_letters import DeadLetters, UndeliverableMessage
from fleet.crashpoints import reach
from fleet.errors import StillOut, StoreConflict
from fleet.jetstream.connection import OUTAGES, Connection, connect, servers
from fleet.jetstream.origin import CONTROL_INBOX, delivered, is_copy
from fleet.jetstream.topology import MAX_DELIVER

log = structlog.get_logger(__name__)

RETRY_DELAYS_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
KEEP_EVERY_S = 1.5
POISON_AFTER = 6
"""Deliveries after which a failure that is nobody else's is the message's own."""

Body = TypeVar("Body")


class Received(Generic[Body]):
    """A message as it came: raw body and its delivery. `Body` is what the body should decode to."""

    __slots__ = ("delivery", "msg")

    def __init__(self, msg: Msg, delivery: "JetStreamDelivery") -> None:
        self.msg = msg
        self.delivery = delivery

    @property
    def body(self) -> bytes:
        """Still undecoded: a decoding error belongs to the handler, which can reject the message."""
        data: bytes = self.msg.data
        return data

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context that the publisher sent."""
        return (self.msg.header or {}).get("traceparent")

    @classmethod
    def __class_getitem__(cls, body: Any) -> Any:
        # FastStream's AsyncAPI generator sees the message, not its wrapping.
        return body


class JetStreamDelivery:
    """Acknowledging one message; a message that failed too often becomes a dead letter."""

    __slots__ = ("_deliveries", "_holder", "_msg", "id", "received_at", "redelivered", "sequence", "stream")

    def __init__(self, msg: Msg, holder: "OutboxHolder") -> None:
        meta = msg.metadata
        self._msg = msg
        self._holder = holder
        self._deliveries: int = meta.num_delivered
        self.stream: str = meta.stream
        self.sequence: int = meta.sequence.stream
        self.id = f"{self.stream}:{self.sequence}"
        self.redelivered = self._deliveries > 1
        self.received_at = time.monotonic()

    async def ack(self) -> None:
        """Done with it."""
        await self._msg.ack()

    async def keep(self) -> None:
        """Still being worked on: NATS waits for another `ack_wait`."""
        await self._msg.in_progress()

    async def keep_on(self) -> None:
        """`keep`, again and again, until cancelled."""
        while True:
            await asyncio.sleep(KEEP_EVERY_S)
            with suppress(nats.errors.Error, OSError):
                await self.keep()

    async def hand_back(self) -> None:
        """For another process, at once."""
        await self._msg.nak()

    async def retry_later(self, reason: Exception) -> None:
        """Hands it back, for later each time; after the last try it is given up.

        While NATS takes no writes nothing can be handled, which is no fault of this message's.
        """
        tries = MAX_DELIVER if isinstance(reason, (*OUTAGES, StillOut, StoreConflict)) else POISON_AFTER
        if self._deliveries >= tries:
            await self.give_up(f"failed {self._deliveries} times, last: {reason!r}")
            return
        await self._msg.nak(delay=RETRY_DELAYS_S[min(self._deliveries, len(RETRY_DELAYS_S)) - 1])

    async def give_up(self, reason: str) -> None:
        """Nobody can handle it: buries it, and tells whoever waits for it."""
        await self._holder.dead_letters.give_up(self._undeliverable(), reason)
        await self._msg.term()

    async def bury(self, reason: str) -> None:
        """Keeps it whole in `DEAD_LETTERS` and takes it off its stream: whoever waits for it knows already."""
        log.warning("message.dead_lettered", stream=self.stream, sequence=self.sequence, reason=reason)
        await self._holder.outbox.dead_letter(
            self._msg.subject,
            self._msg.data,
            self._msg.header,
            stream=self.stream,
            sequence=self.sequence,
            reason=reason,
        )
        reach("message.buried")
        await self._msg.term()

    def _undeliverable(self) -> UndeliverableMessage:
        return UndeliverableMessage(self.stream, self.sequence, self._msg.subject, self._msg.data, self._msg.header)


class Broker(NatsBroker):
    """A FastStream broker on a connection made as all others are. Its handlers get what `served_only` makes `Received`.

    FastStream's own would end for good at the first server that refuses it: what its callback raises stops nats-py
    from trying the others.
    """

    def __init__(self, settings: Settings, name: str, holder: "OutboxHolder") -> None:
        async def receive(message: NatsMessage) -> tuple[Msg, OutboxHolder]:
            return message.raw_message, holder

        super().__init__(servers(settings), apply_types=False, decoder=receive, logger=None, graceful_timeout=10.0)
        self._settings = settings
        self._name = name

    async def _connect(self) -> Connection:
        async def lost() -> None:
            log.warning("nats.disconnected")

        async def found() -> None:
            log.info("nats.reconnected")

        callbacks = {"disconnected_cb": lost, "reconnected_cb": found}
        connection = await connect(self._settings, self._name, inbox_prefix=CONTROL_INBOX, **callbacks)
        self.config.connect(connection)
        return connection


class OutboxHolder:
    """Both exist once the broker is connected; handlers run only after that."""

    outbox: Outbox
    dead_letters: DeadLetters


def durable(stream: str, consumer: str) -> dict[str, Any]:
    """Arguments of `broker.subscriber` that bind it to a push consumer which `topology` has declared."""
    return {
        "stream": JStream(stream, declare=False),
        "queue": consumer,  # nats-py binds to the durable of the same name
        "ack_policy": AckPolicy.MANUAL,
        "pending_msgs_limit": -1,
        "pending_bytes_limit": -1,
    }


def served_only(
    stream: str, consumer: str, subjects: Collection[str], handler: Callable[[Received[Any]], Awaitable[None]]
) -> Callable[[Received[Any]], Awaitable[None]]:
    """`handler`, for what `consumer` delivers of `stream` under one of `subjects`. Anything else never reaches it: who
    may create a consumer may have its messages delivered to the subject of this one.

    What escapes the handler is logged here, and nowhere else: FastStream, without a logger, says nothing."""

    @functools.wraps(handler)
    async def serve(given: Any) -> None:
        msg, holder = given
        if not delivered(msg, stream, consumer, subjects):
            return
        received: Received[Any] = Received(msg, JetStreamDelivery(msg, holder))
        reach("delivery.received")
        try:
            if is_copy(msg):
                await received.delivery.bury("a copy of a stored message, which nobody published")
            else:
                await handler(received)
        except Exception:
            log.exception("message.not_handled", stream=stream, sequence=received.delivery.sequence)
            raise

    return serve


def reason_of(error: Exception) -> str:
    """Why a body is no such message, in one line."""
    kind = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "undecodable"
    return f"{kind}: {error}"
