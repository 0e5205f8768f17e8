"""Connects a client: sends requests to the service, and turns NATS' errors into `FleetError`s that say what to do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import dropwhile
from traceback import walk_tb
from typing import Any

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from fleet import subjects
from fleet.client.refusals import Refusals
from fleet.client.texts import NOT_FOR_ACCOUNT, ClientTexts
from fleet.config import Settings, without_userinfo
from fleet.errors import BadRequest, FleetError, Unreachable
from fleet.jetstream.connection import connect
from fleet.jetstream.lasting import Connection
from fleet.messages import ContentRef, DeliberationCompleted, Proposal, TerminalEvent, decode, encode

STREAM_FULL = 10077
"""JetStream's code for `maximum messages exceeded`, where a stream discards what is new."""
STREAM_NOT_FOUND = 10059
REPLY_WITHIN_S = 5.0
RESTARTED_WITHIN_S = 10.0
ASK_AGAIN_EVERY_S = 0.2
ANSWERS_WITHIN_S = 2


NO_JETSTREAM = "JetStream is not on at {}: add `jetstream {{}}` to its configuration"
FOR_TENANTS = (
    "this account has no JetStream, which that needs: a tenant of a fleet can ask, submit, watch, cancel, and look at "
    "results"
)

ELSEWHERE = (
    "a fleet answers at {}, but its streams are not in the JetStream of this server (a leaf node's, say): connect to "
    "the fleet's own NATS for that; asking, submitting, watching, cancelling and looking at results work here"
)


class ServiceError(FleetError):
    """The fleet answered with an error: `code` as in HTTP, `body` as sent."""

    def __init__(self, code: int, error: str, body: bytes) -> None:
        super().__init__(error)
        self.code = code
        self.body = body


@dataclass(frozen=True, slots=True)
class Ticket:
    """What NATS says of a published request. `duplicate`: the same one was there already."""

    task_id: str
    stream_sequence: int
    duplicate: bool


@asynccontextmanager
async def connected(settings: Settings, name: str) -> AsyncIterator[Connection]:
    """Connected inside. Whatever NATS raises, or refuses, there leaves as a `FleetError` that says what to do."""
    refusals = Refusals(settings)
    nc = await connect(settings, name, error_cb=refusals.hear)
    where = without_userinfo(settings.nats)
    closing = _cancel_once_closed(nc)
    try:
        with refusals:
            yield nc
    except asyncio.CancelledError:
        if not nc.closed.is_set() or (task := asyncio.current_task()) is None or task.uncancel():
            raise
        raise Unreachable("the connection to NATS was closed for good") from None
    except (nats.errors.NoRespondersError, nats.js.errors.NoStreamResponseError, nats.js.errors.NotFoundError):
        raise Unreachable(await _why_nobody_answers(nc, where)) from None
    except nats.js.errors.ServiceUnavailableError as error:
        if error.err_code == STREAM_FULL:
            raise FleetError("the fleet has as many requests waiting as it takes: try again later") from None
        raise Unreachable(
            FOR_TENANTS if error.err_code == NOT_FOR_ACCOUNT else await _why_nobody_answers(nc, where)
        ) from None
    except nats.js.errors.APIError as error:
        raise FleetError(f"NATS refused: {error.description or error}") from None
    except (nats.errors.Error, TimeoutError, OSError) as error:
        if not _is_of_nats(error):
            raise  # of the block's own: its deadline, or its file
        raise Unreachable(await _who_is_silent(nc, where, error)) from None
    finally:
        closing.cancel()
        with suppress(Exception):
            await nc.close()


def _is_of_nats(error: BaseException) -> bool:
    """Whether it was raised by a call of this client or of nats-py. What the block raises by itself, and what an
    `asyncio.timeout` of its own makes of such a call, passes through none of their frames, but for the context
    managers around the block.
    """
    if isinstance(error, nats.errors.Error):
        return True
    modules = (str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__))
    inside = dropwhile(lambda module: module.startswith("fleet.client."), modules)
    return any(module.startswith(("nats.", "fleet.")) for module in inside)


async def _who_is_silent(nc: Connection, where: str, error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        with suppress(nats.errors.Error, TimeoutError, OSError):
            await nc.flush(ANSWERS_WITHIN_S)
            return f"NATS answers at {where}, but the fleet is silent: try again, or see `fleet doctor`"
    return f"NATS at {where} does not answer any more ({error or type(error).__name__})"


async def _why_nobody_answers(nc: Connection, where: str) -> str:
    if await has_streams_elsewhere(nc):
        return ELSEWHERE.format(where)
    if await lacks_jetstream(nc):
        return NO_JETSTREAM.format(where)
    if await is_tenants(nc):
        return FOR_TENANTS
    return (
        f"NATS answers at {where}, but no fleet does: start one with `fleet up`, "
        "or see what is missing with `fleet doctor`"
    )


def _cancel_once_closed(nc: Connection) -> "asyncio.Task[Any]":
    """The task that calls, as it may wait for something that cannot come any more."""
    waiting = asyncio.current_task()
    assert waiting is not None
    closing = asyncio.create_task(nc.closed.wait())
    closing.add_done_callback(lambda done: done.cancelled() or waiting.cancel())
    return closing


async def lacks_jetstream(nc: Connection) -> bool:
    """Whether no server of this cluster has JetStream. One that has only begun offers it, and does not answer yet."""
    if nc.offers_jetstream:
        return False
    try:
        await nc.request("$JS.API.INFO", timeout=REPLY_WITHIN_S)
    except nats.errors.NoRespondersError:
        return True
    except (nats.errors.Error, TimeoutError):
        return False
    return False


async def is_tenants(nc: Connection) -> bool:
    """Whether the server has JetStream, and this account has none. (A fleet may be there or not.)"""
    with suppress(nats.errors.Error, TimeoutError, msgspec.MsgspecError, AttributeError):
        error = msgspec.json.decode((await nc.request("$JS.API.INFO", timeout=REPLY_WITHIN_S)).data).get("error") or {}
        return bool(error.get("err_code") == NOT_FOR_ACCOUNT)
    return False


async def has_streams_elsewhere(nc: Connection) -> bool:
    """Whether a fleet answers, whose streams this server's JetStream does not have: behind a leaf node, for example."""
    ping = f"$SRV.PING.{subjects.SERVICE}"
    with suppress(nats.errors.Error, TimeoutError, msgspec.MsgspecError, AttributeError):
        try:
            reply = await nc.request(f"$JS.API.STREAM.INFO.{subjects.DELIBERATIONS}", timeout=REPLY_WITHIN_S)
            error = msgspec.json.decode(reply.data).get("error") or {}
            if error.get("err_code") != STREAM_NOT_FOUND:
                return False
        except nats.errors.NoRespondersError:
            pass
        return bool((await nc.request(ping, timeout=REPLY_WITHIN_S)).data)
    return False


class Caller:
    """Requests to the micro service, and texts that lie in the object store."""

    def __init__(self, nc: Connection) -> None:
        self.nc = nc
        self.js: JetStreamContext = nc.jetstream(timeout=REPLY_WITHIN_S)
        self.texts = ClientTexts(nc, REPLY_WITHIN_S)

    async def completed(self, event: dict[str, Any]) -> dict[str, Any]:
        """An event with every text in it, wherever it lay."""
        if (ref := (event.get("task") or {}).get("content_ref")) is not None:
            event["task"] = msgspec.json.decode(await self.texts.get(msgspec.convert(ref, ContentRef)))
        for entry in event.get("results", ()):
            for holder in (entry["proposal"], *entry.get("earlier", ())):
                if (ref := holder.get("content_ref")) is not None:
                    text = await self.texts.get(msgspec.convert(ref, ContentRef))
                    holder |= {"content": text.decode(), "content_ref": None}
        return event

    async def with_texts(self, event: TerminalEvent) -> TerminalEvent:
        """`completed` with its texts, as its type."""
        return terminal_event(encode(await self.completed(msgspec.to_builtins(event))))

    async def text(self, proposal: Proposal) -> str:
        """The whole text, wherever it lies."""
        if proposal.content_ref is None:
            return proposal.content
        return (await self.texts.get(proposal.content_ref)).decode()

    async def winning_text(self, event: TerminalEvent) -> str | None:
        """None for a deliberation without a winner."""
        return await self.text(event.results[0].proposal) if isinstance(event, DeliberationCompleted) else None

    async def request(self, subject: str, body: bytes, *, within_s: float) -> bytes:
        """The reply's whole body. Raises `ServiceError`."""
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
                if asyncio.get_running_loop().time() > until or not await self.was_here():
                    raise
                await asyncio.sleep(ASK_AGAIN_EVERY_S)

    async def was_here(self) -> bool:
        """Whether there was ever a fleet: it may come back. Where NATS does not say, it may."""
        try:
            await self.js.stream_info(subjects.DELIBERATION_REQUESTS)
        except nats.js.errors.NotFoundError:
            return False
        except (nats.errors.Error, TimeoutError):
            return not await lacks_jetstream(self.nc)
        return True


def rejected(error: ServiceError) -> FleetError:
    """As `BadRequest`, if it is a rejection."""
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
