"""Defines the Python client: `async with connect(url) as fleet: result = await fleet.ask("…", agents=3)`."""

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, TypedDict, Unpack

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

from fleet import subjects
from fleet.client.connection import REPLY_WITHIN_S, Caller, ServiceError, Ticket, connected, rejected, terminal_event
from fleet.client.listing import Summary, summaries
from fleet.config import load
from fleet.errors import Unreachable
from fleet.jetstream.origin import is_copy
from fleet.messages import (
    CacheMode,
    CancelReply,
    DeliberationCancelled,
    DeliberationCompleted,
    DeliberationFailed,
    FollowReply,
    ResultReply,
    Status,
    TerminalEvent,
    decode,
    encode,
)
from fleet.requests.by_reference import by_reference
from fleet.secret_files import overlaid
from fleet.tenants.names import DEFAULT_TENANT, is_key, name_of, subject_of

SILENT_FOR_S = 15.0
"""An instance of the service says something every ten seconds, or is gone."""
AGAIN_AFTER_S, AGAIN_WITHIN_S = 0.5, 30.0
MAX_WAIT_S = 300.0
FETCH_WITHIN_S = 30.0
HANDLED_WITHIN_S = 60.0
TERMINAL = (DeliberationCompleted, DeliberationFailed, DeliberationCancelled)

Event = ResultReply | FollowReply | TerminalEvent
"""What `watch` yields: the status at first, then phases and calls, then the end."""


class Request(TypedDict, total=False):
    """Fields of a request beside its text; `subjects.md` says what each means. `agents`: `num_agents`; `cache`:
    `options.cache`.
    """

    task_id: str
    role: str
    agents: int
    rounds: int
    priority: str
    constraints: Mapping[str, Any]
    correlation: Mapping[str, str]
    options: Mapping[str, Any]
    cache: CacheMode


@asynccontextmanager
async def connect(url: str | None = None) -> AsyncIterator["Fleet"]:
    """A fleet's client, connected inside. `url`: several servers of a cluster are separated by commas; absent:
    `NATS_URL`. Credentials and certificates come from the environment (`NATS_CREDS`, `NATS_CA` …). Raises `FleetError`.
    """
    environ = {name: value for name, value in os.environ.items() if name.startswith("NATS_")}
    settings = load(overlaid(environ, NATS_URL=url) if url else environ)
    async with connected(settings, "fleet-client") as nc:
        yield Fleet(nc)


class Fleet(Caller):
    """Asks, follows, looks at results, cancels. Raises `BadRequest`, `ServiceError` and `Unreachable`."""

    async def ask(self, task_description: str, **request: Unpack[Request]) -> TerminalEvent:
        """Waits for the end, whatever becomes of single instances of the fleet. Raises `BadRequest`."""
        body = _body(task_description, request)
        async with aclosing(self._follow({"task_id": f"ask-{secrets.token_hex(8)}", **body})) as events:
            async for event in events:
                if isinstance(event, TERMINAL):
                    return event
        raise Unreachable("the fleet published no terminal event")

    async def submit(self, task_description: str, **request: Unpack[Request]) -> Ticket:
        """Publishes a request, and waits for the receipt only. A bad request is rejected later, by an event.

        It is given an id here: one that is made of its place in the stream may have been another's before a restore.
        """
        return await self.publish(_body(task_description, request))

    async def publish(self, body: Mapping[str, Any]) -> Ticket:
        """`submit` of a body of `deliberation.requested`."""
        body = {"task_id": f"task-{secrets.token_hex(8)}", **body}
        ack = await self.js.publish(subjects.REQUESTED, await by_reference(encode(body), self.texts))
        return Ticket(body["task_id"], ack.seq, bool(ack.duplicate))

    async def result(self, task: str | Ticket, *, wait_s: float = 0.0) -> ResultReply:
        """The status now, or after at most `wait_s`; `UNKNOWN` for a task that nobody knows."""
        until = asyncio.get_running_loop().time() + wait_s
        while True:
            left = max(0.0, until - asyncio.get_running_loop().time())
            waiting_s = min(left, MAX_WAIT_S)
            subject, task_id = addressed(subjects.RESULT, _id(task))
            question = encode({"task_id": task_id, "wait_seconds": waiting_s})
            try:
                body = await self.request(subject, question, within_s=waiting_s + REPLY_WITHIN_S)
                reply = decode(body, ResultReply)
            except ServiceError as error:
                if error.code != 404:
                    raise rejected(error) from None
                return ResultReply(task_id=_id(task), status="UNKNOWN")
            if reply.result is not None or left <= MAX_WAIT_S:
                return reply

    async def watch(self, task: str | Ticket) -> AsyncGenerator[Event]:
        """What happens to a task, from where it stands to its end. Raises `ServiceError` 404 for an unknown one."""
        subject, task_id = addressed(subjects.FOLLOW, _id(task))
        async with aclosing(self._follow({"task_id": task_id}, subject)) as events:
            async for event in events:
                yield event

    async def cancel(self, task: str | Ticket, reason: str | None = None) -> CancelReply:
        """Returns once the task has ended as cancelled. Raises `BadRequest` for what is no id, and `ServiceError`: 404
        unknown, 409 already ended.
        """
        subject, task_id = addressed(subjects.CANCEL, _id(task))
        question = {"task_id": task_id, "reason": reason}
        try:
            return decode(await self.request(subject, encode(question), within_s=REPLY_WITHIN_S), CancelReply)
        except ServiceError as error:
            raise (rejected(error) if error.code == 400 else error) from None

    async def deliberations(
        self, *statuses: Status, tenant: str | None = None, limit: int | None = 50
    ) -> list[Summary]:
        """The newest ones, oldest first: those that run, and those that ended in the last days."""
        return await summaries(self, statuses, tenant=tenant, limit=limit)

    async def results(self, durable: str) -> AsyncIterator[TerminalEvent]:
        """Every terminal event of the last days, and those that come, for ever. `durable` names who reads: what its
        loop has gone on from does not come again, here or in another process.
        """
        config = ConsumerConfig(
            name=durable, durable_name=durable, ack_policy=AckPolicy.EXPLICIT, ack_wait=HANDLED_WITHIN_S
        )
        try:
            await self.js.consumer_info(subjects.DELIBERATIONS, durable)
        except NotFoundError:
            await self.js.add_consumer(subjects.DELIBERATIONS, config)
        events = await self.js.pull_subscribe_bind(durable, stream=subjects.DELIBERATIONS)
        while True:
            try:
                (msg,) = await events.fetch(1, timeout=FETCH_WITHIN_S)
            except nats.errors.TimeoutError:
                continue
            handled = False
            try:
                if msg.subject in subjects.TERMINAL and not is_copy(msg):
                    yield await self._event(msg.data)
                handled = True
            finally:
                await (msg.ack() if handled else msg.nak())

    async def _follow(self, body: dict[str, Any], subject: str = subjects.FOLLOW) -> AsyncGenerator[Event]:
        """Replies of `deliberation.follow`, asked again where an instance fell silent or nobody is there."""
        failing_since: float | None = None
        while True:
            inbox = self.nc.new_inbox()
            replies = await self.nc.subscribe(inbox)
            try:
                await self.nc.publish(subject, await by_reference(encode(body), self.texts), reply=inbox)
                while True:
                    msg = await replies.next_msg(timeout=SILENT_FOR_S)
                    event = await self._reply(msg)
                    failing_since = None
                    body = {"task_id": event.task_id}
                    yield event
                    if isinstance(event, TERMINAL):
                        return
            except (nats.errors.TimeoutError, nats.errors.NoRespondersError, ServiceError) as error:
                if isinstance(error, ServiceError) and error.code < 500:
                    raise rejected(error) from None
                self.nc.doubt()
                now = asyncio.get_running_loop().time()
                failing_since = failing_since or now
                nobody = isinstance(error, nats.errors.NoRespondersError) and not await self.was_here()
                if nobody or now - failing_since > AGAIN_WITHIN_S:
                    raise
            finally:
                # A caller that leaves its loop lets go of this when Python likes: by then the connection may be closed.
                with suppress(nats.errors.ConnectionClosedError):
                    await replies.unsubscribe()
            await asyncio.sleep(AGAIN_AFTER_S)

    async def _reply(self, msg: Msg) -> Event:
        headers = msg.headers or {}
        if code := headers.get("Nats-Service-Error-Code"):
            raise ServiceError(int(code), headers.get("Nats-Service-Error", "error"), msg.data)
        if not msg.data:
            raise nats.errors.NoRespondersError
        body = await self.texts.inline(msg.data)
        fields = msgspec.json.decode(body)
        if "phase" in fields:
            return decode(body, FollowReply)
        if fields["status"] in ("PENDING", "IN_PROGRESS") or "result" in fields:
            return decode(body, ResultReply)
        return await self._event(body)

    async def _event(self, body: bytes) -> TerminalEvent:
        """With every text in it, wherever it lay."""
        return terminal_event(encode(await self.completed(msgspec.json.decode(await self.texts.inline(body)))))


def addressed(subject: str, task_id: str) -> tuple[str, str]:
    """Where to ask for a task, and by which id. In the fleet's account `<tenant>.<task_id>` is a tenant's task."""
    tenant, own = name_of(task_id) if is_key(task_id) else (DEFAULT_TENANT, task_id)
    return subject_of(tenant, subject), own


def _id(task: str | Ticket) -> str:
    return task if isinstance(task, str) else task.task_id


def _body(task_description: str, request: Request) -> dict[str, Any]:
    fields: dict[str, Any] = {"num_agents" if name == "agents" else name: value for name, value in request.items()}
    if "cache" in fields:
        fields["options"] = {**fields.get("options", {}), "cache": fields.pop("cache")}
    return {"task_description": task_description, **fields}
