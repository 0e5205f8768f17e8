"""A worker: takes agent calls from JetStream, many at once, and answers each exactly as often as it must.

A message is acknowledged once its response is stored. Who gets a call that another worker let go of looks first whether
anybody still waits for it.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import msgspec
import structlog
from msgspec import Struct
from nats.aio.msg import Msg

from fleet import subjects
from fleet.clock import now_ms
from fleet.config import Settings
from fleet.crashpoints import reach
from fleet.errors import AgentCallError
from fleet.jetstream import connection
from fleet.jetstream.origin import WORKER_INBOX, is_copy, published
from fleet.jetstream.payloads import MissingText
from fleet.messages import UNDECODABLE, AgentCompleted, AgentRequested, AgentStop, ErrorType, decode
from fleet.messages.headers import child_traceparent
from fleet.messages.unreadable import failed_call
from fleet.times import from_rfc3339
from workers.calls import responses
from workers.calls.call_names import facts
from workers.calls.caller import Caller, note
from workers.calls.deliveries import LOST_AFTER, Deliveries
from workers.calls.duplicates import Doubts
from workers.calls.leases import Lease, Leases, Outcome, settle
from workers.calls.publisher import Outlet, age_s
from workers.calls.pull import Pull
from workers.llm.client import ModelClient
from workers.llm.servers.endpoint import EndpointStatus

log = structlog.get_logger(__name__)

TEXT_TRIES = 3
"""A replica of the object store may lag: a text that is missing once need not be gone."""
LOOK_AFTER_S = 1.0
"""A call that waited longer than this may be over already."""
CLOSE_WITHIN_S = 1.0


class WorkerStatus(Struct, frozen=True, kw_only=True):
    """How a worker is. `last_fetch_age_s`: since NATS last gave a sign to its pull; 0 while it wants nothing."""

    name: str
    open_calls: int
    done: int
    failed: int
    last_fetch_age_s: float
    endpoints: tuple[EndpointStatus, ...] = ()


class AgentWorker:
    """`await start()`, and it works until `await stop(grace_s)`."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._leases = Leases(freed=lambda: self._pull.wake())
        self._done = 0
        self._failed = 0
        self._stopping = False
        self._background: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Raises `ConfigError` and `Unreachable`."""
        self._client = ModelClient(self._settings)
        try:
            self._client.start()
            self._nc = await connection.connect(
                self._settings,
                self._name,
                inbox_prefix=WORKER_INBOX,
                reconnected_cb=self._on_reconnect,
                disconnected_cb=self._on_disconnect,
            )
        except BaseException:
            await self._client.close()
            raise
        self._outlet = Outlet(self._nc)
        self._doubts = Doubts(self._leases, self._outlet.standing)
        sign_s = self._settings.workers.ack_wait_s / 3
        self._deliveries = Deliveries(self._outlet.texts, self._name, sign_s)
        self._caller = Caller(self._settings, self._client, self._outlet.report)
        try:
            await self._nc.subscribe(subjects.AGENT_STOP, cb=self._on_stop)
        except BaseException:
            await self._client.close()
            await connection.disconnect(self._nc)
            raise
        self._pull = Pull(
            self._nc,
            subjects.AGENT_REQUESTS,
            subjects.WORKERS,
            subjects.AGENT_REQUESTED,
            free=self._free,
            deliver=self._on_message,
        )
        self._pull.start()
        # None waits longer than a third of `ack_wait` for its heartbeat.
        self._spawn(self._leases.keep(sign_s))
        self._spawn(self._deliveries.keep(self._leases.all))
        self._spawn(self._doubts.look())
        log.info("worker.started", worker=self._name, calls=self._settings.workers.calls_per_worker)

    async def stop(self, grace_s: float) -> None:
        """Takes nothing new, lets open calls finish for `grace_s`, hands the others back."""
        self._stopping = True
        until = time.monotonic() + grace_s
        await self._pull.stop()
        await self._leases.finish(until - time.monotonic())
        handed_back = await self._leases.hand_back(CLOSE_WITHIN_S)
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._caller.close()
        await self._client.close()
        await connection.disconnect(self._nc)
        log.info("worker.stopped", worker=self._name, handed_back=handed_back)

    @property
    def closed(self) -> asyncio.Event:
        """Set once its connection to NATS is given up for good (expired credentials, say): it can do nothing more."""
        return self._nc.closed

    def status(self) -> WorkerStatus:
        return WorkerStatus(
            name=self._name,
            open_calls=len(self._leases),
            done=self._done,
            failed=self._failed,
            last_fetch_age_s=round(self._pull.silent_s, 3),
            endpoints=self._client.status(),
        )

    # --- one message ------------------------------------------------------------------------------------------------

    def _free(self) -> int:
        return 0 if self._stopping else self._settings.workers.calls_per_worker - len(self._leases)

    def _on_message(self, msg: Msg) -> None:
        if self._stopping:
            self._leases.refuse(msg, self._hand_back)
        else:
            self._leases.take(msg, self._handle)

    async def _handle(self, lease: Lease) -> None:
        """Works on one message and settles it, whatever happens."""
        outcome: Outcome
        broken = False
        try:
            outcome = await self._work(lease)
        except asyncio.CancelledError:
            outcome = "ack" if lease.end == "stopped" else "nak"
        except Exception as error:
            told = facts(lease.request) if lease.request else {}
            log.exception("agent.broken", error_type=type(error).__name__, **told)
            broken, outcome = True, await self._broken(lease, error)
        await settle(lease.msg, outcome)
        reach("worker.acknowledged")
        if outcome in ("nak", "nak later") and not broken:
            await self._deliveries.handed_back(lease.msg)

    async def _work(self, lease: Lease) -> Outcome:
        msg = lease.msg
        if is_copy(msg):
            await self._outlet.bury(msg, "a copy of a stored message, which nobody published")
            return "term"
        try:
            request = await self._outlet.with_shared_text(decode(await self._outlet.inline(msg.data), AgentRequested))
            deadline_ms = from_rfc3339(request.deadline_at)
        except (msgspec.MsgspecError, ValueError, RecursionError, MissingText) as error:
            if isinstance(error, MissingText):
                if await self._is_over(msg):
                    return "ack"
                if msg.metadata.num_delivered < TEXT_TRIES:
                    return "nak later"
            log.error("agent.undecodable", sequence=msg.metadata.sequence.stream, error_type=type(error).__name__)
            return await self._give_up(msg, f"{type(error).__name__}: {error}")
        lease.request = request
        if skipped := await self._why_not(msg, request, deadline_ms):
            log.info("agent.skipped", reason=skipped, **facts(request))
            late = skipped == "deadline" and await self._is_waited_for(request)
            return await self._too_late(request, msg) if late else "ack"
        if msg.metadata.num_delivered > 1:
            if await self._deliveries.lost_workers(msg):
                what = f"the call was lost together with its worker {LOST_AFTER} times"
                log.error("agent.worker_lost", delivery=msg.metadata.num_delivered, **facts(request))
                return await self._fail(request, msg, "WorkerLost", what)
            await self._deliveries.begin(msg)
        traceparent = child_traceparent((msg.headers or {}).get("traceparent"))
        reach("worker.taken")
        response = await self._caller.call(request, msg.metadata.num_delivered, traceparent)
        reach("worker.answered")
        if not await self._outlet.respond(response, traceparent):
            return "nak later"
        reach("worker.stored")
        note(response)
        if isinstance(response, AgentCompleted):
            self._done += 1
        else:
            self._failed += 1
        return "ack"

    async def _broken(self, lease: Lease, error: Exception) -> Outcome:
        """An error of ours, after the model has answered perhaps: a second one would not be the last."""
        try:
            if not await self._deliveries.broken(lease.msg):
                return "nak later"
            what = f"the worker failed twice, the last time with {type(error).__name__}"
            if lease.request is None:
                return await self._give_up(lease.msg, what)
            return await self._fail(lease.request, lease.msg, "InternalError", what)
        except Exception:
            log.exception("agent.broken_again")
            return "nak later"

    async def _hand_back(self, msg: Msg) -> None:
        await settle(msg, "nak")
        await self._deliveries.handed_back(msg)

    async def _is_waited_for(self, request: AgentRequested) -> bool:
        standing = await self._outlet.standing(request.task_id)
        return standing is not None and standing.wants(request)

    async def _too_late(self, request: AgentRequested, msg: Msg) -> Outcome:
        """The deadline has passed and its own message has not ended the task: NATS drops it while the disk is full."""
        return await self._fail(request, msg, "DeadlineExceeded", "the deadline had passed before the call began")

    async def _fail(self, request: AgentRequested, msg: Msg, error_type: ErrorType, what: str) -> Outcome:
        error = AgentCallError(error_type, what, retryable=False)
        failed = responses.failed(request, error, msg.metadata.num_delivered, 0)
        stored = await self._outlet.respond(failed, child_traceparent((msg.headers or {}).get("traceparent")))
        return "ack" if stored else "nak later"

    async def _give_up(self, msg: Msg, reason: str) -> Outcome:
        """Nobody can make this call: its deliberation must not wait for it."""
        failed = failed_call(msg.headers, msg.data, reason, now_ms())
        if failed is not None and not await self._outlet.respond(failed, (msg.headers or {}).get("traceparent")):
            return "nak later"
        await self._outlet.bury(msg, reason)
        return "term"

    async def _is_over(self, msg: Msg) -> bool:
        """Whether nobody waits for this call any more, as far as its headers tell."""
        named = failed_call(msg.headers, b"", "", 0)
        standing = await self._outlet.standing(named.task_id) if named else None
        return named is not None and standing is not None and not standing.wants(named)

    async def _why_not(self, msg: Msg, request: AgentRequested, deadline_ms: int) -> str | None:
        """Why this call need not be made."""
        if self._leases.stopped(request.task_id):
            return "stopped"
        if deadline_ms <= now_ms():
            return "deadline"
        if msg.metadata.num_delivered > 1 or age_s(msg) > LOOK_AFTER_S:
            standing = await self._outlet.standing(request.task_id)
            if standing is not None and not standing.wants(request):
                return "answered"
        return None

    # --- stops and reconnects ---------------------------------------------------------------------------------------

    async def _on_stop(self, msg: Msg) -> None:
        if not published(msg, subjects.AGENT_STOP):
            return
        try:
            stop = decode(msg.data, AgentStop)
        except UNDECODABLE:
            log.warning("stop.undecodable", bytes=len(msg.data))
            return
        self._spawn(self._stop(stop.task_id))

    async def _stop(self, task_id: str) -> None:
        """A stop is a hint: the state tells whether the task has ended. Where it does not, it is looked at again."""
        standing = await self._outlet.standing(task_id)
        if standing is not None and standing.ended:
            self._leases.stop(task_id)
        else:
            self._leases.doubt(task_id)

    async def _on_disconnect(self) -> None:
        if not self._stopping:
            log.warning("nats.disconnected", worker=self._name)

    async def _on_reconnect(self) -> None:
        log.info("nats.reconnected", worker=self._name)
        self._pull.reset()
        # What was said, or handed to others, while the connection was away is in the state.
        self._doubts.all()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
