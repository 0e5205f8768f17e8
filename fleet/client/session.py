"""Speaks to a running fleet for the commands: publishes requests, waits for results, reads bodies by reference."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg

from fleet import subjects
from fleet.client.connection import (
    REPLY_WITHIN_S,
    STREAM_FULL,
    ServiceError,
    Ticket,
    connected,
    is_tenants,
    rejected,
    terminal_event,
)
from fleet.client.fleet import Fleet, addressed
from fleet.client.listing import NEWEST, last_end
from fleet.config import Settings
from fleet.errors import FleetError
from fleet.jetstream.lasting import Connection
from fleet.jetstream.lifetimes import LONGEST_DELIBERATION_S
from fleet.jetstream.payloads import MissingText
from fleet.messages import (
    UNDECODABLE,
    AgentCompleted,
    AgentFailed,
    AgentProgress,
    ResultReply,
    decode,
    encode,
    status_of,
)
from fleet.requests import compiling
from fleet.requests.by_reference import by_reference
from fleet.requests.parse import parse_request
from fleet.tenants.names import is_key

LOOK_EVERY_S = 5.0
"""An answer that was lost on its way (a component died at the wrong moment) is fetched by then."""
AFTER_DEADLINE_S = 30.0
DEFAULT_TIMEOUT_S = 300.0

__all__ = ["STREAM_FULL", "ServiceError", "Session", "Ticket", "check", "session", "terminal_event"]

CallEvent = AgentProgress | AgentCompleted | AgentFailed
CALL_EVENTS: dict[str, type[CallEvent]] = {
    subjects.AGENT_PROGRESS: AgentProgress,
    subjects.AGENT_COMPLETED: AgentCompleted,
    subjects.AGENT_FAILED: AgentFailed,
}


@asynccontextmanager
async def session(settings: Settings) -> AsyncIterator["Session"]:
    """Connected inside. Whatever NATS raises, or refuses, there leaves as a `FleetError` that says what to do."""
    async with connected(settings, "fleet-cli") as nc:
        yield Session(nc, settings)


class Session(Fleet):
    """The client, and what the commands need besides: bodies as they are, and what agents report while they work."""

    def __init__(self, nc: Connection, settings: Settings) -> None:
        super().__init__(nc)
        self._settings = settings

    async def submit_body(self, body: dict[str, Any]) -> Ticket:
        """`submit`. Raises `BadRequest` for a request that the fleet would reject, as far as can be told from here."""
        check(body)
        return await self.publish(body)

    async def ask_body(self, body: dict[str, Any], on_event: Callable[[CallEvent], None]) -> bytes:
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
                request_body = await by_reference(encode(body), self.texts)
                answer = await self.texts.inline(await self._answer(task_id, request_body, ended))
                return encode(await self.completed(msgspec.json.decode(answer)))
        except TimeoutError:
            raise FleetError(f"{task_id} is overdue: see `fleet result {task_id}` and `fleet doctor`") from None

    async def _answer(self, task_id: str, body: bytes, ended: asyncio.Future[bytes]) -> bytes:
        """Whichever comes first: the service's reply, the event itself, or what the state says."""
        asking = asyncio.create_task(
            self.request(subjects.ASK, body, within_s=LONGEST_DELIBERATION_S + AFTER_DEADLINE_S)
        )
        waiting: set[asyncio.Future[bytes]] = {asking, ended}
        lost: ServiceError | None = None
        try:
            while True:
                done, _ = await asyncio.wait(waiting, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
                try:
                    if done:
                        return done.pop().result()
                    state = msgspec.json.decode(await self.result_body(task_id))
                    if state.get("result"):
                        return encode(state["result"])
                    if lost is not None and state["status"] == "UNKNOWN":
                        raise lost
                except ServiceError as error:
                    if error is lost or error.code < 500:
                        raise rejected(error) from None
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

    async def result_body(self, task_id: str, wait_s: float = 0) -> bytes:
        """`deliberation.result`'s answer, also the 404 of an unknown task."""
        subject, own = addressed(subjects.RESULT, task_id)
        question = {"task_id": own, **({"wait_seconds": wait_s} if wait_s else {})}
        try:
            return await self.request(subject, encode(question), within_s=wait_s + REPLY_WITHIN_S)
        except ServiceError as error:
            if error.code == 404 and error.body:
                return error.body
            raise rejected(error) from None

    async def stored_body(self, task_id: str, wait_s: float = 0, *, older: bool = False) -> tuple[bytes, bool]:
        """`result_body`; of a task that the fleet does not know any more, what its event says, and True. Its id is free
        again, so that nobody who asks may be answered with this. Whoever waits may wait for what was just submitted.
        `older`: all events are looked through, and not the newest alone.
        """
        body = await self.result_body(task_id, wait_s)
        gone = (older or not wait_s) and decode(body, ResultReply).status == "UNKNOWN" and is_key(task_id)
        if gone and not await is_tenants(self.nc):
            # By a connection of its own: whoever may not read events has heard all that there is.
            with suppress(FleetError, *UNDECODABLE):
                async with session(self._settings) as apart:
                    event = await last_end(apart, task_id, None if older else NEWEST)
                if event is not None:
                    result = terminal_event(encode(event))
                    return encode(ResultReply(task_id=result.task_id, status=status_of(result), result=result)), True
        return body, False


def check(body: dict[str, Any]) -> None:
    """Raises `BadRequest`; which roles there are, only the fleet knows."""
    compiling.check_here(*parse_request(encode(body), 0, None))
