"""Receives messages of JetStream durables through FastStream, and settles them: for dispatcher and collector.

The handlers return at once (the runner acknowledges), so one slow task never holds up another; `max_ack_pending` of the
durable bounds what is in flight.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import nats.errors
import structlog
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, NatsMessage
from nats.aio.msg import Msg

from fleet.config import Settings
from fleet.control.recovery.dead_letters import DeadLetters, UndeliverableMessage
from fleet.crashpoints import reach
from fleet.errors import EventInFlight, StoreConflict
from fleet.jetstream.connection import OUTAGES, connect, disconnect, servers
from fleet.jetstream.lasting import Connection
from fleet.jetstream.lifetimes import KEEP_EVERY_S
from fleet.jetstream.origin import CONTROL_INBOX, delivered, is_copy, run_of
from fleet.jetstream.quirks import deliver_to
from fleet.jetstream.streams import of_consumer
from fleet.jetstream.topology import MAX_DELIVER
from fleet.messages.headers import CALL_TOKEN, traceparent_in
from fleet.tenants.names import DEFAULT_TENANT, tenant_of

log = structlog.get_logger(__name__)

RETRY_DELAYS_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
CLOSE_WITHIN_S = 2.0
POISON_AFTER = 6
"""Deliveries after which a failure that is nobody else's is the message's own."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What one handler takes: a durable of the table of streams. `tenant`: whose requests, where it takes requests."""

    consumer: str
    title: str
    description: str
    tenant: str = DEFAULT_TENANT

    @property
    def stream(self) -> str:
        return of_consumer(self.consumer, self.tenant)[0].name

    @property
    def subjects(self) -> tuple[str, ...]:
        """Those that the durable may deliver."""
        return of_consumer(self.consumer, self.tenant)[0].delivered

    @property
    def filter(self) -> str:
        return of_consumer(self.consumer, self.tenant)[1].filter


class IncomingMessage:
    """A message as it came: raw body and its delivery."""

    __slots__ = ("_msg", "delivery")

    def __init__(self, msg: Msg, delivery: "JetStreamDelivery") -> None:
        self._msg = msg
        self.delivery = delivery

    @property
    def subject(self) -> str:
        return str(self._msg.subject)

    @property
    def tenant(self) -> str:
        """Whose it is: the server has mapped the subject."""
        return tenant_of(self.subject)

    @property
    def body(self) -> bytes:
        """Still undecoded: a decoding error belongs to the handler, which can reject the message."""
        data: bytes = self._msg.data
        return data

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context that the publisher sent."""
        return traceparent_in(self._msg.header)

    @property
    def message_id(self) -> str | None:
        """`Nats-Msg-Id`, as the publisher chose it. An empty one is none."""
        return (self._msg.header or {}).get("Nats-Msg-Id") or None

    @property
    def call_token(self) -> str:
        """Of the call that it answers; empty: none."""
        return str((self._msg.header or {}).get(CALL_TOKEN, ""))


Handler = Callable[[IncomingMessage], Awaitable[None]]
Counted = Callable[[], None]
"""Counts one more."""


class JetStreamDelivery:
    """Acknowledging one message; a message that failed too often becomes a dead letter."""

    def __init__(self, msg: Msg, dead_letters: DeadLetters) -> None:
        meta = msg.metadata
        self._msg = msg
        self._dead_letters = dead_letters
        self._deliveries: int = meta.num_delivered
        self.stream: str = meta.stream
        self.sequence: int = meta.sequence.stream
        self.run = run_of(msg)
        self.id = f"{self.stream}:{self.sequence}"
        self.redelivered = self._deliveries > 1
        self.received_at = time.monotonic()

    async def ack(self) -> None:
        """Tells NATS that the message is handled."""
        await self._settle(self._msg.ack())

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
        await self._settle(self._msg.nak())

    async def retry_later(self, reason: Exception) -> None:
        """Hands it back, for later each time; after the last try it is given up.

        While NATS takes no writes nothing can be handled, which is no fault of this message's.
        """
        tries = MAX_DELIVER if isinstance(reason, (*OUTAGES, EventInFlight, StoreConflict)) else POISON_AFTER
        if self._deliveries >= tries:
            try:
                await self.give_up(f"failed {self._deliveries} times, last: {reason!r}")
                return
            except OUTAGES as outage:
                log.warning("message.not_given_up", stream=self.stream, sequence=self.sequence, error=repr(outage))
        await self._settle(self._msg.nak(delay=RETRY_DELAYS_S[min(self._deliveries, len(RETRY_DELAYS_S)) - 1]))

    async def give_up(self, reason: str) -> None:
        """Nobody can handle it: buries it, and publishes the failure that this means for its task."""
        await self._dead_letters.give_up(self._undeliverable(), reason)
        await self._settle(self._msg.term())

    async def bury(self, reason: str) -> None:
        """Stores it whole in `DEAD_LETTERS` and takes it off its stream: its failure is published already."""
        await self._dead_letters.store(self._undeliverable(), reason)
        reach("message.buried")
        await self._settle(self._msg.term())

    async def _settle(self, verdict: Awaitable[None]) -> None:
        """A message of whose verdict NATS does not hear comes again after `ack_wait`."""
        try:
            await verdict
        except OUTAGES as error:
            log.warning("delivery.not_settled", stream=self.stream, sequence=self.sequence, error=repr(error))

    def _undeliverable(self) -> UndeliverableMessage:
        msg = self._msg
        return UndeliverableMessage(self.stream, self.sequence, self.run, msg.subject, msg.data, msg.header)


class Broker(NatsBroker):
    """A FastStream broker on a connection made as all others are.

    FastStream's own would end for good at the first server that refuses it: what its callback raises stops nats-py
    from trying the others.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(servers(settings), apply_types=False, decoder=_raw, logger=None, graceful_timeout=10.0)
        self._settings = settings
        self._name = name
        self._handlers: list[tuple[Any, Callable[[Any], Awaitable[None]]]] = []
        """Of each of FastStream's subscribers."""

    def serve(
        self, subscription: Subscription, handler: Handler, dead_letters: DeadLetters, redelivered: Counted
    ) -> None:
        """`handler` gets what the durable delivers, once the broker has started; `redelivered` counts repetitions."""
        handle = served_only(subscription, handler, dead_letters, redelivered)
        subscriber = self.subscriber(
            subscription.filter,
            title=subscription.title,
            description=subscription.description,
            stream=JStream(subscription.stream, declare=False),
            queue=subscription.consumer,  # nats-py binds to the durable of the same name
            ack_policy=AckPolicy.MANUAL,
            pending_msgs_limit=-1,
            pending_bytes_limit=-1,
        )
        subscriber(handle)
        self._handlers.append((subscriber, handle))

    async def start(self) -> None:
        """As FastStream's, past what it would do for each message; and until NATS knows of the subscriptions."""
        await super().start()
        for subscriber, handle in self._handlers:
            deliver_to(subscriber.subscription, handle)
        await self.connection.flush()

    async def drain(self) -> None:
        """Takes nothing new, and hands what NATS has sent already to the handlers.

        FastStream's own way would drop that, for another process to have after `ack_wait`.
        """
        for subscriber in self.subscribers:
            if (subscription := getattr(subscriber, "subscription", None)) is not None:
                with suppress(*OUTAGES):
                    async with asyncio.timeout(CLOSE_WITHIN_S):
                        await subscription.drain()
                subscriber.subscription = None  # type: ignore[attr-defined]
            await subscriber.stop()

    async def close(self) -> None:
        """Disconnects, in whatever state it is."""
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self.stop()
        except (*OUTAGES, ExceptionGroup):  # NATS is away
            if self._connection is not None:
                await disconnect(self._connection)

    @property
    def connection(self) -> Connection:
        """As `_connect` has made it: FastStream knows only nats-py's."""
        connection = super().connection
        assert isinstance(connection, Connection)
        return connection

    async def _connect(self) -> Connection:
        async def on_disconnect() -> None:
            log.warning("nats.disconnected")

        async def on_reconnect() -> None:
            log.info("nats.reconnected")

        callbacks = {"disconnected_cb": on_disconnect, "reconnected_cb": on_reconnect}
        connection = await connect(self._settings, self._name, inbox_prefix=CONTROL_INBOX, **callbacks)
        self.config.connect(connection)
        return connection


def served_only(
    subscription: Subscription, handler: Handler, dead_letters: DeadLetters, redelivered: Counted
) -> Callable[[Any], Awaitable[None]]:
    """`handler`, for what the durable delivers under its subjects, and for nothing else.

    Who may create a consumer may have its messages delivered to the subject of this one. What escapes the handler is
    logged here: FastStream, without a logger, says nothing.
    """
    stream, consumer, subjects = subscription.stream, subscription.consumer, subscription.subjects

    async def handle(msg: Any) -> None:
        if not delivered(msg, stream, consumer, subjects):
            return
        message = IncomingMessage(msg, JetStreamDelivery(msg, dead_letters))
        if message.delivery.redelivered:
            redelivered()
        reach("delivery.received")
        try:
            if is_copy(msg):
                await message.delivery.bury("a copy of a stored message, which nobody published")
            else:
                await handler(message)
        except OUTAGES as error:
            log.warning("message.retried", stream=stream, sequence=message.delivery.sequence, error=repr(error))
            await message.delivery.retry_later(error)
        except Exception:
            log.exception("message.not_handled", stream=stream, sequence=message.delivery.sequence)
            raise

    return handle


async def _raw(message: NatsMessage) -> Msg:
    return message.raw_message
