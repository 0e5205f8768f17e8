"""A worker: takes agent calls from JetStream, many at once, and answers each exactly as often as it must.

The message is the lease: `in_progress` keeps it while the call runs; it is acknowledged once the response is stored. A
worker that dies lets go of its calls by silence. Who gets such a call next looks first whether anybody still waits.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Coroutine
from functools import partial
from typing import Any, Literal

import msgspec
import nats.errors
import structlog
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg

from fleet import connection, subjects
from fleet.config import Settings
from fleet.envelope import child_traceparent
from fleet.errors import AgentCallError
from fleet.messages import AgentCompleted, AgentFailed, AgentRequested, AgentResponse, AgentStop, Proposal, decode
from fleet.texts import MissingText
from fleet.times import from_rfc3339, now_ms, rfc3339
from workers import answers
from workers.outlet import Outlet, age_s, call_id_of
from workers.progress import ProgressReport
from workers.pull import Pull
from workers.roles import Ask, resolve
from workers.vllm import Answer, GaveUp, VllmClient

log = structlog.get_logger(__name__)

LOOK_AFTER_S = 1.0
"""A call that waited longer than this may be over already."""
REMEMBERED_STOPS = 10_000
NAK_DELAY_S = 2.0
CLOSE_WITHIN_S = 1.0

End = Literal["stopped", "handed back"]


class WorkerStatus(Struct, frozen=True, kw_only=True):
    """How a worker is. `last_fetch_age_s`: since NATS last gave a sign to its pull; 0 while it wants nothing."""

    name: str
    open_calls: int
    done: int
    failed: int
    last_fetch_age_s: float


class _Call:
    """One message being worked on. `end` says why its task was cancelled."""

    def __init__(self, msg: Msg) -> None:
        self.msg = msg
        self.task_id: str | None = None
        self.task: asyncio.Task[None] | None = None
        self.end: End | None = None

    def cancel(self, end: End) -> None:
        if self.end is None and self.task is not None:
            self.end = end
            self.task.cancel()


class AgentWorker:
    """`await start()`, and it works until `await stop(grace_s)`."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._calls: set[_Call] = set()
        self._naks: set[asyncio.Task[None]] = set()
        self._stopped: OrderedDict[str, None] = OrderedDict()
        self._done = 0
        self._failed = 0
        self._stopping = False
        self._background: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Raises `ConfigError` and `Unreachable`."""
        self._client = VllmClient(self._settings)
        try:
            self._nc: Client = await connection.connect(
                self._settings, self._name, reconnected_cb=self._on_reconnect, disconnected_cb=self._on_disconnect
            )
        except BaseException:
            await self._client.close()
            raise
        self._outlet = Outlet(self._nc)
        await self._nc.subscribe(subjects.AGENT_STOP, cb=self._on_stop)
        self._pull = Pull(
            self._nc, subjects.AGENT_REQUESTS, subjects.WORKERS, free=self._free, deliver=self._on_message
        )
        self._pull.start()
        self._spawn(self._keep_leases())
        log.info("worker.started", worker=self._name, calls=self._settings.workers.calls_per_worker)

    async def stop(self, grace_s: float) -> None:
        """Takes nothing new, lets open calls finish for `grace_s`, hands the others back."""
        self._stopping = True
        until = time.monotonic() + grace_s
        await self._pull.stop()
        if tasks := self._tasks():
            await asyncio.wait(tasks, timeout=max(0.0, until - time.monotonic()))
        handed_back = self._tasks()
        for call in list(self._calls):
            call.cancel("handed back")
        if handed_back | self._naks:
            await asyncio.wait(handed_back | self._naks, timeout=CLOSE_WITHIN_S)
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._client.close()
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._nc.flush()
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.warning("worker.not_flushed", worker=self._name, error=type(error).__name__)
        await self._nc.close()
        log.info("worker.stopped", worker=self._name, handed_back=len(handed_back))

    def status(self) -> WorkerStatus:
        return WorkerStatus(
            name=self._name,
            open_calls=len(self._calls),
            done=self._done,
            failed=self._failed,
            last_fetch_age_s=round(self._pull.silent_s, 3),
        )

    # --- taking calls -----------------------------------------------------------------------------------------------

    def _free(self) -> int:
        return 0 if self._stopping else self._settings.workers.calls_per_worker - len(self._calls)

    def _tasks(self) -> set[asyncio.Task[None]]:
        return {call.task for call in self._calls if call.task is not None}

    def _on_message(self, msg: Msg) -> None:
        if self._stopping:
            task = asyncio.create_task(_settle(msg, "nak"))
            self._naks.add(task)
            task.add_done_callback(self._naks.discard)
            return
        call = _Call(msg)
        self._calls.add(call)
        call.task = asyncio.create_task(self._handle(call))
        call.task.add_done_callback(lambda _: self._over(call))

    def _over(self, call: _Call) -> None:
        self._calls.discard(call)
        self._pull.wake()

    async def _handle(self, call: _Call) -> None:
        """Works on one message and settles it, whatever happens."""
        try:
            outcome = await self._work(call)
        except asyncio.CancelledError:
            outcome = "ack" if call.end == "stopped" else "nak"
        except Exception as error:
            log.exception("agent.broken", task_id=call.task_id, error_type=type(error).__name__)
            outcome = "nak later"
        await _settle(call.msg, outcome)

    async def _work(self, call: _Call) -> str:
        """Returns how to settle the message."""
        msg = call.msg
        try:
            request = decode(await self._outlet.inline(msg.data), AgentRequested)
            deadline_ms = from_rfc3339(request.deadline_at)
        except (msgspec.MsgspecError, ValueError, MissingText) as error:
            log.error("agent.undecodable", sequence=msg.metadata.sequence.stream, error_type=type(error).__name__)
            await self._outlet.bury(msg, f"{type(error).__name__}: {error}")
            return "term"
        call.task_id = request.task_id
        if skipped := await self._why_not(msg, request, deadline_ms):
            log.info("agent.skipped", reason=skipped, **_facts(request))
            return "ack"
        traceparent = child_traceparent((msg.headers or {}).get("traceparent"))
        response = await self._call(request, msg.metadata.num_delivered, traceparent)
        if not await self._outlet.respond(response, traceparent):
            return "nak later"
        if isinstance(response, AgentCompleted):
            self._done += 1
        else:
            self._failed += 1
        return "ack"

    async def _why_not(self, msg: Msg, request: AgentRequested, deadline_ms: int) -> str | None:
        """Why this call need not be made."""
        if request.task_id in self._stopped:
            return "stopped"
        if deadline_ms <= now_ms():
            return "deadline"
        if msg.metadata.num_delivered > 1 or age_s(msg) > LOOK_AFTER_S:
            standing = await self._outlet.standing(request.task_id)
            if standing is not None and not standing.wants(request):
                return "answered"
        return None

    async def _call(self, request: AgentRequested, num_delivered: int, traceparent: str) -> AgentResponse:
        """The response to publish."""
        began = time.monotonic()
        first_attempt = (num_delivered - 1) * self._settings.workers.max_attempts + 1
        report = ProgressReport(
            request,
            self._settings.workers.progress_interval_ms,
            partial(self._outlet.report, traceparent=traceparent),
        )
        log.info("agent.started", delivery=num_delivered, **_facts(request))
        response: AgentResponse
        try:
            ask = resolve(self._settings, request)
            answer = await self._client.complete(
                ask,
                request_id=call_id_of(request),
                check=partial(answers.check, request),
                watcher=report,
                first_attempt=first_attempt,
            )
            response = _completed(request, ask, answer, _ms_since(began))
        except AgentCallError as error:
            response = _failed(request, error, first_attempt, _ms_since(began))
        finally:
            report.close()
        await report.sent()
        if isinstance(response, AgentFailed):
            log.warning(
                "agent.failed",
                error_type=response.error_type,
                attempt=response.attempt,
                duration_ms=response.duration_ms,
                **_facts(request),
            )
        else:
            log.info("agent.completed", attempt=response.attempt, duration_ms=response.duration_ms, **_facts(request))
        return response

    # --- leases, stops, reconnects ----------------------------------------------------------------------------------

    async def _keep_leases(self) -> None:
        """One loop for all calls: none waits longer than a third of `ack_wait` for its heartbeat."""
        while True:
            await asyncio.sleep(self._settings.workers.ack_wait_s / 3)
            for call in list(self._calls):
                try:
                    await call.msg.in_progress()
                except (nats.errors.Error, OSError) as error:
                    log.warning("lease.not_kept", task_id=call.task_id, error=type(error).__name__)
                    break

    async def _on_stop(self, msg: Msg) -> None:
        try:
            stop = decode(msg.data, AgentStop)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            log.warning("stop.undecodable", bytes=len(msg.data))
            return
        self._stop_task(stop.task_id)

    def _stop_task(self, task_id: str) -> None:
        self._stopped[task_id] = None
        self._stopped.move_to_end(task_id)
        while len(self._stopped) > REMEMBERED_STOPS:
            self._stopped.popitem(last=False)
        calls = [call for call in self._calls if call.task_id == task_id]
        for call in calls:
            call.cancel("stopped")
        if calls:
            log.info("agent.stopped", task_id=task_id, calls=len(calls))

    async def _on_disconnect(self) -> None:
        if not self._stopping:
            log.warning("nats.disconnected", worker=self._name)

    async def _on_reconnect(self) -> None:
        log.info("nats.reconnected", worker=self._name)
        self._pull.reset()
        # Not here: nats-py has not finished reconnecting before its callback returns.
        self._spawn(self._stop_what_has_ended())

    async def _stop_what_has_ended(self) -> None:
        """An `agent.stop` sent while the connection was away did not arrive."""
        for task_id in {call.task_id for call in self._calls if call.task_id is not None}:
            standing = await self._outlet.standing(task_id)
            if standing is not None and standing.ended:
                self._stop_task(task_id)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _settle(msg: Msg, outcome: str) -> None:
    try:
        match outcome:
            case "ack":
                await msg.ack()
            case "term":
                await msg.term()
            case "nak":
                await msg.nak()
            case _:
                await msg.nak(delay=NAK_DELAY_S)
    except (nats.errors.Error, OSError) as error:
        # The message comes again, and is found to be answered.
        log.warning("message.not_settled", outcome=outcome, error=type(error).__name__)


def _completed(request: AgentRequested, ask: Ask, answer: Answer, duration_ms: int) -> AgentCompleted:
    proposal = None
    if request.phase in ("propose", "revise"):
        proposal = Proposal(
            content=answer.content,
            author_id=request.agent_id,
            author_role=request.role,
            model=answer.model,
            temperature=ask.temperature,
            tokens=answer.tokens,
            revisions=request.revisions,
        )
    return AgentCompleted(
        task_id=request.task_id,
        agent_id=request.agent_id,
        role=request.role,
        phase=request.phase,
        round=request.round,
        attempt=answer.attempt,
        model=answer.model,
        num_agents=request.num_agents,
        duration_ms=duration_ms,
        timestamp=rfc3339(now_ms()),
        proposal=proposal,
        critiques=answer.checked if request.phase == "critique" else None,
        scores=answer.checked if request.phase == "score" else None,
        diversity=request.diversity,
        usage=answer.usage,
        correlation=request.correlation,
    )


def _failed(request: AgentRequested, error: AgentCallError, first_attempt: int, duration_ms: int) -> AgentFailed:
    tried = (
        {"attempt": error.attempt, "usage": error.usage} if isinstance(error, GaveUp) else {"attempt": first_attempt}
    )
    return AgentFailed(
        task_id=request.task_id,
        agent_id=request.agent_id,
        role=request.role,
        phase=request.phase,
        round=request.round,
        error=error.error,
        error_type=error.error_type,
        retryable=error.retryable,
        num_agents=request.num_agents,
        duration_ms=duration_ms,
        timestamp=rfc3339(now_ms()),
        correlation=request.correlation,
        **tried,
    )


def _facts(request: AgentRequested) -> dict[str, str | int]:
    """What a log line says of a call: never its text."""
    return {
        "task_id": request.task_id,
        "agent_id": request.agent_id,
        "phase": request.phase,
        "round": request.round,
    }


def _ms_since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
