"""A client's side of the wire: what the commands ask of a running fleet."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from fleet import subjects
from fleet.client.refusals import Refusals
from fleet.config import Settings, without_userinfo
from fleet.errors import BadRequest, FleetError, Unreachable
from fleet.jetstream.connection import Connection, connect
from fleet.jetstream.payloads import MissingText, Texts
from fleet.messages import (
    AgentCompleted,
    AgentFailed,
    AgentProgress,
    ContentRef,
    DeliberationCompleted,
    Proposal,
    TerminalEvent,
    decode,
    encode,
)
from fleet.requests import compiling
from fleet.requests.by_reference import by_reference
from fleet.requests.parse import parse_request

STREAM_FULL = 10077
"""JetStream's code for `maximum messages exceeded`, where a stream discards what is new."""
REPLY_WITHIN_S = 5.0
RESTARTED_WITHIN_S = 10.0
ASK_AGAIN_EVERY_S = 0.2
LOOK_EVERY_S = 5.0
"""An answer that was lost on its way (a component died at the wrong moment) is fetched by then."""
AFTER_DEADLINE_S = 30.0
DEFAULT_TIMEOUT_S = 300.0

CallEvent = AgentProgress | AgentCompleted | AgentFailed
CALL_EVENTS: dict[str, type[CallEvent]] = {
    subjects.AGENT_PROGRESS: AgentProgress,
    subjects.AGENT_COMPLETED: AgentCompleted,
    subjects.AGENT_FAILED: AgentFailed,
}


class ServiceError(FleetError):
    """The fleet answered with an error: `code` as in HTTP, `body` as sent."""

    def __init__(self, code: int, error: str, body: bytes) -> None:
        super().__init__(error)
        self.code = code
        self.body = body


@dataclass(frozen=True, slots=True)
class Receipt:
    """What NATS says of a published request. `duplicate`: the same one was there already."""

    task_id: str
    stream_sequence: int
    duplicate: bool


@asynccontextmanager
async def session(settings: Settings) -> AsyncIterator["Session"]:
    """Connected inside. Whatever NATS raises, or refuses, there leaves as a `FleetError` that says what to do."""
    refusals = Refusals(settings)
    nc = await connect(settings, "fleet-cli", error_cb=refusals.hear)
    where = without_userinfo(settings.nats)
    closing = _cancel_once_closed(nc)
    try:
        with refusals:
            yield Session(nc)
    except asyncio.CancelledError:
        if not nc.closed.is_set() or (task := asyncio.current_task()) is None or task.uncancel():
            raise
        raise Unreachable("the connection to NATS was closed for good") from None
    except (nats.errors.NoRespondersError, nats.js.errors.NoStreamResponseError, nats.js.errors.NotFoundError):
        raise Unreachable(
            f"NATS answers at {where}, but no fleet does: start one with `fleet up`, "
            "or see what is missing with `fleet doctor`"
        ) from None
    except nats.js.errors.ServiceUnavailableError as error:
        if error.err_code == STREAM_FULL:
            raise FleetError("the fleet has as many requests waiting as it takes: try again later") from None
        raise Unreachable(f"JetStream is not on at {where}: add `jetstream {{}}` to its configuration") from None
    except nats.js.errors.APIError as error:
        raise FleetError(f"NATS refused: {error.description or error}") from None
    except (nats.errors.Error, TimeoutError, OSError) as error:
        raise Unreachable(f"NATS at {where} does not answer any more ({error or type(error).__name__})") from None
    finally:
        closing.cancel()
        with suppress(Exception):
            await nc.close()


def _cancel_once_closed(nc: Connection) -> "asyncio.Task[Any]":
    """The task that calls, as it may wait for something that cannot come any more."""
    waiting = asyncio.current_task()
    assert waiting is not None
    closing = asyncio.create_task(nc.closed.wait())
    closing.add_done_callback(lambda done: done.cancelled() or waiting.cancel())
    return closing


class Session:
    """The requests of one client."""

    def __init__(self, nc: Client) -> None:
        self.nc = nc
        self.js: JetStreamContext = nc.jetstream(timeout=REPLY_WITHIN_S)
        self.texts = Texts(self.js, nc.max_payload)

    async def submit(self, body: dict[str, Any]) -> Receipt:
        """Publishes a request. Raises `BadRequest` for one the fleet would reject, as far as can be told from here."""
        check(body)
        ack = await self.js.publish(subjects.REQUESTED, await by_reference(encode(body), self.texts))
        return Receipt(body.get("task_id") or f"d-{ack.seq}", ack.seq, bool(ack.duplicate))

    async def ask(self, body: dict[str, Any], on_event: Callable[[CallEvent], None]) -> bytes:
        """The terminal event's body; `on_event` gets what the task's agents report meanwhile. Raises `BadRequest`."""
        check(body)
        body = {"task_id": f"ask-{secrets.token_hex(4)}", **body}
        task_id = body["task_id"]
        ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def event(msg: Msg) -> None:
            if (msg.header or {}).get("Task-Id") == task_id:
                with suppress(MissingText):
                    on_event(decode(await self.texts.inline(msg.data), CALL_EVENTS[msg.subject]))

        async def terminal(msg: Msg) -> None:
            if (msg.header or {}).get("Task-Id") == task_id and not ended.done():
                ended.set_result(msg.data)

        for subject in CALL_EVENTS:
            await self.nc.subscribe(subject, cb=event)
        for subject in subjects.TERMINAL:
            await self.nc.subscribe(subject, cb=terminal)
        timeout_s = (body.get("constraints") or {}).get("timeout_seconds") or DEFAULT_TIMEOUT_S
        try:
            async with asyncio.timeout(timeout_s + AFTER_DEADLINE_S):
                asked = await by_reference(encode(body), self.texts)
                answer = await self.texts.inline(await self._answer(task_id, asked, ended))
                return encode(await self.completed(msgspec.json.decode(answer)))
        except TimeoutError:
            raise FleetError(f"{task_id} is overdue: see `fleet result {task_id}` and `fleet doctor`") from None

    async def _answer(self, task_id: str, body: bytes, ended: asyncio.Future[bytes]) -> bytes:
        """Whichever comes first: the service's reply, the event itself, or what the state says."""
        asking = asyncio.create_task(self._request(subjects.ASK, body, within_s=3600 + AFTER_DEADLINE_S))
        waiting: set[asyncio.Future[bytes]] = {asking, ended}
        lost: ServiceError | None = None
        try:
            while True:
                done, _ = await asyncio.wait(waiting, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
                try:
                    if done:
                        return done.pop().result()
                    state = msgspec.json.decode(await self.result(task_id))
                    if state.get("result"):
                        return encode(state["result"])
                    if lost is not None and state["status"] == "UNKNOWN":
                        raise lost
                except ServiceError as error:
                    if error is lost or error.code < 500:
                        raise _rejected(error) from None
                    # That instance goes away; the deliberation goes on, unless nobody has heard of it.
                    lost = error
                    waiting.discard(asking)
                except (nats.errors.NoRespondersError, nats.js.errors.NotFoundError):
                    if asking in waiting and asking.done():
                        raise  # there is no fleet
                except (nats.errors.Error, TimeoutError):
                    if self.nc.is_closed:  # nats-py may have taken the cancellation for the end of its time
                        raise nats.errors.ConnectionClosedError from None
                    if asking.done():
                        waiting.discard(asking)  # NATS was away for a moment, and the answer with it
        finally:
            asking.cancel()

    async def result(self, task_id: str, wait_s: float = 0) -> bytes:
        """`deliberation.result`'s answer, also the 404 of an unknown task."""
        question = {"task_id": task_id, **({"wait_seconds": wait_s} if wait_s else {})}
        try:
            return await self._request(subjects.RESULT, encode(question), within_s=wait_s + REPLY_WITHIN_S)
        except ServiceError as error:
            if error.code == 404 and error.body:
                return error.body
            raise

    async def cancel(self, task_id: str, reason: str | None) -> bytes:
        """Raises `ServiceError`: 404 unknown, 409 already ended."""
        question = {"task_id": task_id, **({"reason": reason} if reason else {})}
        return await self._request(subjects.CANCEL, encode(question), within_s=REPLY_WITHIN_S)

    async def completed(self, event: dict[str, Any]) -> dict[str, Any]:
        """An event with every proposal's text in it, wherever it lay."""
        for entry in event.get("results", ()):
            if (ref := entry["proposal"].get("content_ref")) is not None:
                text = await self.texts.get(msgspec.convert(ref, ContentRef))
                entry["proposal"] |= {"content": text.decode(), "content_ref": None}
        return event

    async def text(self, proposal: Proposal) -> str:
        """The whole text, wherever it lies."""
        if proposal.content_ref is None:
            return proposal.content
        return (await self.texts.get(proposal.content_ref)).decode()

    async def winning_text(self, event: TerminalEvent) -> str | None:
        """None for a deliberation without a winner."""
        return await self.text(event.results[0].proposal) if isinstance(event, DeliberationCompleted) else None

    async def _request(self, subject: str, body: bytes, *, within_s: float) -> bytes:
        reply = await self._patiently(subject, body, within_s)
        headers = reply.header or {}
        if code := headers.get("Nats-Service-Error-Code"):
            raise ServiceError(int(code), headers.get("Nats-Service-Error", "error"), reply.data)
        return await self.texts.inline(reply.data)

    async def _patiently(self, subject: str, body: bytes, within_s: float) -> Msg:
        """A fleet that was here and answers nobody is given a moment: its component may be starting again."""
        until = asyncio.get_running_loop().time() + RESTARTED_WITHIN_S
        while True:
            try:
                return await self.nc.request(subject, body, timeout=within_s)
            except nats.errors.NoRespondersError:
                if asyncio.get_running_loop().time() > until:
                    raise
                await self.js.stream_info(subjects.DELIBERATION_REQUESTS)  # NotFoundError: there was never a fleet
                await asyncio.sleep(ASK_AGAIN_EVERY_S)


def check(body: dict[str, Any]) -> None:
    """Raises `BadRequest`; which roles there are, only the fleet knows."""
    compiling.check_here(*parse_request(encode(body), 0, None))


def _rejected(error: ServiceError) -> FleetError:
    if error.code not in (400, 409):
        return error
    with suppress(msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        body = msgspec.json.decode(error.body)
        return BadRequest(body["code"], body["path"], body["error"], task_id=body["task_id"])
    return BadRequest("invalid", "$", str(error))


def terminal_event(body: bytes) -> TerminalEvent:
    """The body of a terminal event, decoded."""
    event: TerminalEvent = decode(body, TerminalEvent)  # type: ignore[arg-type]
    return event
