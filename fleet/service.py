"""The NATS micro service `deliberations`: `deliberation.ask`, `.result` and `.cancel`.

Dispatchers and collectors both serve it, as one queue group. It decides nothing: `ask` publishes a request, `cancel` a
durable control message, and both wait for the terminal event as any other client would.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.js.errors import APIError
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, ServiceConfig

from fleet import __version__, subjects
from fleet.deliberation.state import Deliberation
from fleet.envelope import child_traceparent, headers
from fleet.messages import CancelRequest, DeliberationRejected, ResultReply, ResultRequest, decode, encode
from fleet.process import Component

log = structlog.get_logger(__name__)

MAX_WAIT_S = 300.0
ASK_LIMIT_S = 3600.0 + 60.0
"""Longest timeout a request may have, and a minute for what comes before and after."""
POLL_S = 5.0
"""How often a waiting call looks into the bucket, in case an event was missed while reconnecting."""
RECENT_REJECTIONS = 1024


class ServiceFault(Exception):
    """An answer that carries `Nats-Service-Error` and `Nats-Service-Error-Code`."""

    def __init__(self, code: int, text: str, body: Any) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.body = body


class Endings:
    """Tells those who wait that a task has ended, or that a request was rejected."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._rejected: dict[int, bytes] = {}

    async def on_event(self, msg: Msg) -> None:
        """Terminal events and rejections, from core NATS."""
        if msg.subject == subjects.REJECTED:
            rejected = decode(msg.data, DeliberationRejected)
            self._rejected[rejected.stream_sequence] = msg.data
            if len(self._rejected) > RECENT_REJECTIONS:
                del self._rejected[next(iter(self._rejected))]
            self._wake(f"#{rejected.stream_sequence}")
        elif task_id := (msg.headers or {}).get("Task-Id"):
            self._wake(task_id)

    def rejection(self, sequence: int) -> bytes | None:
        """The rejection of the request with this stream sequence, if it was rejected lately."""
        return self._rejected.get(sequence)

    async def wait(self, keys: tuple[str, ...], timeout_s: float) -> None:
        """Returns when one of `keys` (task ids, `#<sequence>`) was heard of, or the time is over."""
        event = asyncio.Event()
        for key in keys:
            self._waiting.setdefault(key, set()).add(event)
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            for key in keys:
                waiting = self._waiting[key]
                waiting.discard(event)
                if not waiting:
                    del self._waiting[key]

    def _wake(self, key: str) -> None:
        for event in self._waiting.get(key, ()):
            event.set()


class Service:
    """The three endpoints. Calls that wait do so in tasks of their own."""

    def __init__(self, component: Component) -> None:
        self._component = component
        self._endings = Endings()
        self._tasks: set[asyncio.Task[None]] = set()
        self._service: Any = None

    async def start(self) -> None:
        """Subscribes; `nats micro ls` finds it from now on."""
        nc = self._component.nc
        for subject in (*subjects.TERMINAL, subjects.REJECTED):
            await nc.subscribe(subject, cb=self._endings.on_event)
        self._service = await add_service(
            nc,
            ServiceConfig(
                name=subjects.SERVICE,
                version=__version__,
                description="Councils of agents that deliberate: ask, look at the result, cancel.",
            ),
        )
        for subject, handler in (
            (subjects.ASK, self.ask),
            (subjects.RESULT, self.result),
            (subjects.CANCEL, self.cancel),
        ):
            await self._service.add_endpoint(
                EndpointConfig(name=subject.rpartition(".")[2], subject=subject, handler=self._in_its_own_task(handler))
            )
        await nc.flush()

    async def stop(self) -> None:
        """Answers calls that still wait with 503: their tasks go on, `deliberation.result` finds them."""
        if self._service is not None:
            await self._service.stop()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)

    def _in_its_own_task(self, handler: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[None]]:
        async def serve(request: Request) -> None:
            if not request._msg.reply:
                return  # published, not requested: nobody to answer
            try:
                await request.respond(await self._body(await handler(request)))
            except ServiceFault as fault:
                await request.respond_error(str(fault.code), fault.text, data=encode(fault.body))
            except asyncio.CancelledError:
                text = "this instance is shutting down; the deliberation goes on, ask deliberation.result for it"
                await request.respond_error("503", text, data=encode({"error": text}))
            except Exception as error:
                log.error("service.failed", subject=request.subject, error=repr(error))
                text = f"{type(error).__name__}: {error}"
                await request.respond_error("500", text, data=encode({"error": text}))

        async def start(request: Request) -> None:
            task = asyncio.create_task(serve(request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return start

    async def _body(self, reply: Any) -> bytes:
        """The reply, or a reference to it where it does not fit one message."""
        body = encode(reply)
        texts = self._component.texts
        if not texts.too_large(body):
            return body
        facts = msgspec.json.decode(body)
        top = {name: facts[name] for name in ("task_id", "status") if name in facts}
        return await texts.refer(f"{top.get('task_id')}/reply", body, top)

    # --- endpoints ------------------------------------------------------------------------------------------------

    async def ask(self, request: Request) -> Any:
        """Publishes the body to `deliberation.requested`; answers with the terminal event, or faults 400 / 409."""
        if self._component.texts.too_large(request.data):
            text = f"$: the request is too large ({len(request.data)} bytes)"
            raise ServiceFault(400, text, {"task_id": None, "code": "invalid", "path": "$", "error": text})
        traceparent = (request.headers or {}).get("traceparent")
        given = {"traceparent": traceparent} if traceparent else {}
        try:
            ack = await self._component.js.publish(subjects.REQUESTED, request.data, headers=given or None)
        except APIError as error:
            raise _fault(503, f"the request was not taken: {error.description}") from None
        task_id = _task_id_of(request.data) or f"d-{ack.seq}"
        keys = (task_id, f"#{ack.seq}")
        until = time.monotonic() + ASK_LIMIT_S
        while (left := until - time.monotonic()) > 0:
            if rejection := self._endings.rejection(ack.seq):
                body = decode(rejection, DeliberationRejected)
                raise ServiceFault(409 if body.code == "conflict" else 400, body.error, body)
            state = await self._load(task_id)
            if state is not None and state.result is not None and await self._is_this(state, ack.seq):
                return state.result
            if self._endings.rejection(ack.seq) is None:
                await self._endings.wait(keys, min(left, POLL_S))
        raise _fault(504, f"{task_id} has not ended", task_id=task_id)

    async def result(self, request: Request) -> ResultReply:
        """Status now, or after at most `wait_seconds`."""
        wanted = _decode(request.data, ResultRequest)
        until = time.monotonic() + min(max(wanted.wait_seconds or 0.0, 0.0), MAX_WAIT_S)
        while True:
            state = await self._load(wanted.task_id)
            left = until - time.monotonic()
            if (state is not None and state.ended) or left <= 0:
                break
            await self._endings.wait((wanted.task_id,), min(left, POLL_S if state else 0.5))
        if state is None:
            if await self._is_waiting_in_the_stream(wanted.task_id):
                return ResultReply(task_id=wanted.task_id, status="PENDING")
            body = {"task_id": wanted.task_id, "status": "UNKNOWN", "error": f"no task {wanted.task_id}"}
            raise ServiceFault(404, f"no task {wanted.task_id}", body)
        return ResultReply(
            task_id=state.task_id,
            status=state.status,
            progress=state.progress,
            result=state.result,
            accepted_at=state.accepted_at,
            deadline_at=state.deadline_at,
            correlation=state.task.correlation,
        )

    async def cancel(self, request: Request) -> Any:
        """Makes the cancellation durable, then waits for the terminal event."""
        wanted = _decode(request.data, CancelRequest)
        state = await self._load(wanted.task_id)
        if state is None:
            body = {"task_id": wanted.task_id, "status": "UNKNOWN", "error": f"no task {wanted.task_id}"}
            raise ServiceFault(404, f"no task {wanted.task_id}", body)
        if not state.ended:
            msg_id = f"{wanted.task_id}.cancel"
            given = headers(
                subjects.CONTROL_CANCEL,
                msg_id,
                f"/fleet/{self._component.name}",
                wanted.task_id,
                child_traceparent(state.traceparent),
            )
            waiting = asyncio.create_task(self._endings.wait((wanted.task_id,), POLL_S))
            await self._component.js.publish(subjects.CONTROL_CANCEL, encode(wanted), headers=given)
            until = time.monotonic() + MAX_WAIT_S
            while not state.ended and time.monotonic() < until:
                await waiting
                state = await self._load(wanted.task_id) or state
                waiting = asyncio.create_task(self._endings.wait((wanted.task_id,), 0.5))
            waiting.cancel()
            if state.status == "CANCELLED":
                return {"task_id": wanted.task_id, "status": "CANCELLED"}
        body = {"task_id": wanted.task_id, "status": state.status, "error": f"already ended: {state.status}"}
        raise ServiceFault(409, f"{wanted.task_id} already ended: {state.status}", body)

    # --- looking things up ----------------------------------------------------------------------------------------

    async def _load(self, task_id: str) -> Deliberation | None:
        stored = await self._component.store.load(task_id) if _is_key(task_id) else None
        return stored.state if stored else None

    async def _is_this(self, state: Deliberation, sequence: int) -> bool:
        """Whether the result on record answers the request at `sequence`: not while that may yet be a conflict."""
        if state.stream_sequence == sequence:
            return True
        # An older task of that id: the dispatcher takes the request off the stream once it is compared.
        for _ in range(100):
            if not await self._is_stored(sequence):
                return self._endings.rejection(sequence) is None
            await asyncio.sleep(0.05)
        return False

    async def _is_stored(self, sequence: int) -> bool:
        try:
            await self._component.js.get_msg(subjects.DELIBERATION_REQUESTS, seq=sequence)
        except APIError:
            return False
        return True

    async def _is_waiting_in_the_stream(self, task_id: str) -> bool:
        """Whether `d-<seq>` names a request that no dispatcher has taken yet."""
        prefix, _, digits = task_id.partition("-")
        return prefix == "d" and _is_key(task_id) and digits.isdigit() and await self._is_stored(int(digits))


def _fault(code: int, text: str, **facts: Any) -> ServiceFault:
    return ServiceFault(code, text, {**facts, "error": text})


def _decode(data: bytes, kind: type[Any]) -> Any:
    """A JSON object, or a bare task id, quoted or not."""
    text = data.strip()
    try:
        if text[:1] == b"{":
            return decode(text, kind)
        return kind(task_id=decode(text, str) if text[:1] == b'"' else text.decode())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _fault(400, f"bad request: {error}") from None


def _task_id_of(data: bytes) -> str | None:
    try:
        body = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    task_id = body.get("task_id") if isinstance(body, dict) else None
    return task_id if isinstance(task_id, str) else None


def _is_key(task_id: str) -> bool:
    return 0 < len(task_id) <= 64 and all(char.isascii() and (char.isalnum() or char in "_-") for char in task_id)
