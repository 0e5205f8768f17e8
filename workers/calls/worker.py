"""Runs one worker: takes agent calls from JetStream, many at once, until it is closed."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self

import structlog
from nats.aio.msg import Msg

from fleet import subjects
from fleet.clock import now_ms
from fleet.config import Settings
from fleet.event_loop import end
from fleet.jetstream import connection
from fleet.jetstream.declaring.permissions import tell_lacking
from fleet.jetstream.lasting import Connection
from fleet.jetstream.origin import WORKER_INBOX, published
from fleet.jetstream.streams import of_consumer
from fleet.messages import UNDECODABLE, AgentStop, decode
from fleet.messages.workers import WorkerStatus
from fleet.observability.spans import Tracer
from fleet.observability.tracing import tracer_of
from fleet.times import rfc3339
from workers.calls.caller import Caller
from workers.calls.deliveries.delivery_notes import DeliveryNotes
from workers.calls.deliveries.duplicates import DuplicateWatch
from workers.calls.deliveries.leases import Leases
from workers.calls.deliveries.pull_consumer import DRAIN_S, PullConsumer
from workers.calls.message_handler import MessageHandler
from workers.calls.open_files import calls_with_room
from workers.calls.publisher import WorkerPublisher
from workers.calls.shared_limits import SharedLedger
from workers.calls.tasks import BackgroundTasks
from workers.llm.client import ModelClient

log = structlog.get_logger(__name__)

CLOSE_WITHIN_S = 1.0
STATUS_EVERY_S = 3.0


class ConnectionEvents:
    """What nats-py tells of a worker's connection."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.reconnected = asyncio.Event()
        self.closing = False

    async def on_reconnect(self) -> None:
        log.info("nats.reconnected", worker=self._name)
        self.reconnected.set()

    async def on_disconnect(self) -> None:
        if not self.closing:
            log.warning("nats.disconnected", worker=self._name)


class AgentWorker:
    """Made by `open`. `ended` is done once the worker can do nothing more, and raises why.

    None: its connection to NATS is closed for good (expired credentials, say). An exception: a defect has ended one of
    its background tasks, and its process should end, for a supervisor to start it again.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        client: ModelClient,
        nc: Connection,
        events: ConnectionEvents,
        tracer: Tracer | None = None,
    ) -> None:
        self._name = name
        self._started_at = rfc3339(now_ms())
        self._nc = nc
        self._client = client
        self._events = events
        self._capacity = calls_with_room(settings.workers.calls_per_worker)
        self._renew_s = settings.workers.ack_wait_s / 3
        """No lease waits longer than a third of `ack_wait` to be renewed."""
        self._stopping = self._retired = False

        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks = BackgroundTasks(self.ended)
        freed = asyncio.Event()
        self._leases = Leases(freed=freed.set)
        self._publisher = WorkerPublisher(nc)
        self._duplicates = DuplicateWatch(self._leases, self._publisher.task_view)
        self._notes = DeliveryNotes(self._publisher.texts, name, self._renew_s)
        self._caller = Caller(settings, client, self._publisher.report, tracer)
        self._handler = MessageHandler(self._publisher, self._caller, self._notes, self._leases, tracer)
        calls, consumer = of_consumer(subjects.WORKERS)
        self._pull = PullConsumer(
            nc,
            calls.name,
            consumer.name,
            consumer.filter,
            free=self._free,
            deliver=self._on_message,
            wake=freed,
        )
        self._pulling: asyncio.Task[None] | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, name: str) -> AsyncIterator[Self]:
        """A worker that works. At the end open calls are handed back. Raises `ConfigError` and `Unreachable`."""
        events = ConnectionEvents(name)
        async with AsyncExitStack() as stack:
            client = ModelClient(settings)
            stack.push_async_callback(client.close)
            client.start()
            nc = await connection.connect(
                settings,
                name,
                inbox_prefix=WORKER_INBOX,
                reconnected_cb=events.on_reconnect,
                disconnected_cb=events.on_disconnect,
            )
            stack.push_async_callback(connection.disconnect, nc)
            alone = f"{name}.{secrets.token_hex(4)}"
            client.share_limits(SharedLedger(nc, alone), alone)
            stack.push_async_callback(client.give_back)
            tracer = tracer_of("worker")
            if tracer is not None:
                stack.push_async_callback(tracer.close)
            worker = cls(settings, name, client, nc, events, tracer)
            stack.push_async_callback(worker._close)
            await worker._start()
            yield worker

    async def finish(self, grace_s: float) -> None:
        """Takes nothing new, and lets open calls finish for `grace_s`."""
        until = time.monotonic() + grace_s
        self._stopping = self._events.closing = True
        if self._pulling is not None:
            await end(self._pulling, pause_s=2 * DRAIN_S)
        await self._leases.finish(until - time.monotonic())

    async def retire(self, retired: bool) -> int:
        """Takes nothing new, while open calls go on; or takes calls again. Returns how many are open."""
        if retired is not self._retired and not self._stopping:
            self._retired = retired
            log.info("worker.retired" if retired else "worker.works_again", worker=self._name, calls=len(self._leases))
            if retired and (pulling := self._pulling) is not None:
                self._pulling = None
                await end(pulling, pause_s=2 * DRAIN_S)
            elif not retired:
                self._begin_to_pull()
        return len(self._leases)

    def _begin_to_pull(self) -> None:
        self._pull.reset()
        self._pulling = self._tasks.loop("pull calls", self._pull.run())

    def status(self) -> WorkerStatus:
        return WorkerStatus(
            name=self._name,
            started_at=self._started_at,
            told_at=rfc3339(now_ms()),
            open_calls=len(self._leases),
            done=self._handler.done,
            failed=self._handler.failed,
            last_fetch_age_s=round(self._pull.silent_s, 3),
            endpoints=self._client.status(),
            waiting_by_model=self._client.endpoints.waiting(),
            draining=self._retired,
        )

    async def _start(self) -> None:
        await self._nc.subscribe(subjects.AGENT_STOP, cb=self._on_stop)
        self._begin_to_pull()
        self._tasks.loop("renew leases", self._leases.renew(self._renew_s))
        self._tasks.loop("renew delivery notes", self._notes.renew(self._leases.all))
        self._tasks.loop("look for duplicate calls", self._duplicates.run())
        self._tasks.loop("tell status", self._tell_status())
        self._tasks.loop("look at model servers", self._client.watch())
        self._tasks.loop("follow reconnects", self._follow_reconnects())
        self._tasks.step("look at permissions", tell_lacking(self._nc, "worker"))
        self._tasks.step("wait for the connection's end", self._end_with_connection())
        log.info("worker.started", worker=self._name, calls=self._capacity)

    async def _close(self) -> None:
        await self.finish(0.0)
        handed_back = await self._leases.hand_back(CLOSE_WITHIN_S)
        await self._tasks.close()
        await self._caller.close()
        if self._retired:  # by intention: nobody is to miss it
            await self._publisher.forget(subjects.status_of(self._name))
        log.info("worker.stopped", worker=self._name, handed_back=handed_back)

    # --- messages ---------------------------------------------------------------------------------------------------

    def _free(self) -> int:
        return 0 if self._stopping or self._retired else self._capacity - len(self._leases)

    def _on_message(self, msg: Msg) -> None:
        if self._stopping:
            self._leases.refuse(msg, self._handler.hand_back)
        else:
            self._leases.take(msg, self._handler.handle)

    async def _on_stop(self, msg: Msg) -> None:
        if not published(msg, subjects.AGENT_STOP):
            return
        try:
            stop = decode(msg.data, AgentStop)
        except UNDECODABLE:
            log.warning("stop.undecodable", bytes=len(msg.data))
            return
        self._tasks.step("stop calls", self._stop_calls(stop))

    async def _stop_calls(self, stop: AgentStop) -> None:
        """A stop is a hint: the task's state decides. If it does not show the end yet, it is read again later."""
        task = await self._publisher.task_view(stop.task_id)
        if task is not None and (task.ended or not task.is_of(stop.run)):
            self._leases.stop(stop)
        else:
            self._leases.suspect(stop.task_id)

    async def _tell_status(self) -> None:
        """For whoever looks at the fleet from NATS. It is forgotten a minute after the last time."""
        while True:
            await self._publisher.tell(subjects.status_of(self._name), self.status())
            await asyncio.sleep(STATUS_EVERY_S)

    # --- the connection ---------------------------------------------------------------------------------------------

    async def _follow_reconnects(self) -> None:
        while True:
            await self._events.reconnected.wait()
            self._events.reconnected.clear()
            self._pull.reset()
            # Stops were missed meanwhile, and calls may have gone to others: the state tells.
            self._duplicates.suspect_all()

    async def _end_with_connection(self) -> None:
        await self._nc.closed.wait()
        if not self.ended.done():
            self.ended.set_result(None)
