"""Does with less what nats-py (2.16) does for each message: replies, messages taken at once, headers, acknowledgements.

What goes a way of its own here means the same. Whatever is unusual is left to nats-py.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.api import PubAck

Take = Callable[[Msg], None]
"""Takes a message, and returns at once."""

_TOKEN_BYTES, _TOKENS_AT_ONCE = 8, 128
_LINE = b"NATS/1.0\r\n"
_BLANKS = " \t\r\n\v\f"
_VALID_NAMES = frozenset(
    {
        *("Nats-Msg-Id", "Nats-Schedule", "Nats-Schedule-Target", "Nats-Expected-Last-Subject-Sequence"),
        *("traceparent", "Task-Id", "Task-Summary", "Call-Token", "content-type"),
        *("ce-id", "ce-source", "ce-type", "ce-subject", "ce-specversion", "ce-datacontenttype", "ce-time"),
    }
)
"""Names of headers that need not be looked at once more."""


class QuickClient(Client):
    """nats-py's client. `subscribe_at_once` is new; requests and JetStream's publishing cost less."""

    def __init__(self) -> None:
        super().__init__()
        self._takes: dict[int, Take] = {}
        """By the number of the subscription."""
        self._replies_begin: str | None = None
        """How the subjects of all replies begin; None: nothing was asked yet."""
        self._replies: dict[str, asyncio.Future[Msg]] = {}
        self._tokens = _tokens()

    def jetstream(self, **options: Any) -> "QuickJetStream":
        return QuickJetStream(self, **options)

    async def subscribe_at_once(self, subject: str, take: Take) -> Subscription:
        """As `subscribe`, without a queue and a task between: `take` holds up whatever comes after."""

        async def queued(msg: Msg) -> None:
            take(msg)

        subscription = await self.subscribe(subject, cb=queued)
        self._takes[subscription._id] = take
        return subscription

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._takes.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        take = self._takes.get(sid)
        if take is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        given = await self._process_headers(headers)
        msg = self._build_message(sid, subject, reply, data, given)
        try:
            take(msg)
        except Exception as error:
            await self._error_cb(error)

    async def _send_ping(self, future: "asyncio.Future[Any] | None" = None) -> None:
        """nats-py writes it at once, past what waits to be written: `flush` and `drain` would not show that an UNSUB
        has arrived, and NATS would go on to deliver to nobody."""
        if self.is_connected and self._pending and self._transport is not None:
            self._transport.writelines(self._pending[:])
            self._pending = []
            self._pending_data_size = 0
        await super()._send_ping(future)

    async def _request_new_style(
        self, subject: str, payload: bytes, timeout: float = 1, headers: dict[str, Any] | None = None
    ) -> Msg:
        """As nats-py's, with one timer instead of a task's timeout, and replies that are taken at once."""
        if self.is_draining_pubs:
            raise nats.errors.ConnectionDrainingError
        if self._replies_begin is None:
            self._replies_begin = f"{self.new_inbox()}."
            await self.subscribe_at_once(f"{self._replies_begin}*", self._take_reply)
        loop = asyncio.get_running_loop()
        token = next(self._tokens)
        answer: asyncio.Future[Msg] = loop.create_future()
        self._replies[token] = answer
        timer = loop.call_later(timeout, _time_out, answer)
        try:
            await self.publish(subject, payload, reply=self._replies_begin + token, headers=headers)
            return await answer
        finally:
            timer.cancel()
            del self._replies[token]

    def _take_reply(self, msg: Msg) -> None:
        assert self._replies_begin is not None
        answer = self._replies.get(msg.subject[len(self._replies_begin) :])
        if answer is not None and not answer.done():
            answer.set_result(msg)

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        if headers and headers.startswith(_LINE) and (found := _parsed(headers[len(_LINE) :])) is not None:
            return found
        return await super()._process_headers(headers)

    async def _send_publish(
        self, subject: str, reply: str, payload: bytes, payload_size: int, headers: dict[str, Any] | None
    ) -> None:
        if not headers or (lines := _lines(headers)) is None:
            await super()._send_publish(subject, reply, payload, payload_size, headers)
            return
        begin = f"HPUB {subject} {reply} {len(lines)} {len(lines) + payload_size}\r\n".encode()
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += payload_size
        await self._send_command(b"".join((begin, lines, payload, b"\r\n")))
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()


class QuickJetStream(JetStreamContext):
    """nats-py's, with less work for each acknowledgement of what was published."""

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float | None = None,
        stream: str | None = None,
        headers: dict[str, Any] | None = None,
        msg_ttl: float | None = None,
    ) -> PubAck:
        if stream is not None or msg_ttl is not None:
            return await super().publish(subject, payload, timeout, stream, headers, msg_ttl)
        within_s = self._timeout if timeout is None else timeout
        try:
            msg = await self._nc.request(subject, payload, timeout=within_s, headers=headers)
        except nats.errors.NoRespondersError:
            raise nats.js.errors.NoStreamResponseError from None
        return acknowledged(msg.data)


class _Reply(msgspec.Struct):
    """What JetStream answers to what was published: an error, or where it was stored."""

    error: dict[str, Any] | None = None
    stream: str = ""
    seq: int = 0
    domain: str | None = None
    duplicate: bool | None = None
    val: str | None = None


_REPLY = msgspec.json.Decoder(_Reply)


def acknowledged(reply: bytes) -> PubAck:
    """Raises what the server has refused it with: `APIError`. A refusal may name the stream, too."""
    said = _REPLY.decode(reply)
    if said.error is not None:
        raise nats.js.errors.APIError.from_error(said.error)
    if not said.stream:
        raise nats.js.errors.APIError(description=f"no acknowledgement: {reply[:100]!r}")
    return PubAck(said.stream, said.seq, said.domain, said.duplicate, val=said.val)


def _tokens() -> Iterator[str]:
    """Ends of reply subjects. Whoever has seen one cannot tell the next: no reply can be forged."""
    while True:
        many = secrets.token_hex(_TOKENS_AT_ONCE * _TOKEN_BYTES)  # each call asks the kernel
        for begin in range(0, len(many), 2 * _TOKEN_BYTES):
            yield many[begin : begin + 2 * _TOKEN_BYTES]


def _time_out(answer: asyncio.Future[Msg]) -> None:
    if not answer.done():
        answer.set_exception(nats.errors.TimeoutError())


def _parsed(lines: bytes) -> dict[str, str] | None:
    """None: a name or a line is unusual."""
    found: dict[str, str] = {}
    for line in lines.decode(errors="replace").rstrip("\r\n").split("\r\n"):
        name, _, value = line.partition(": ")
        if name not in _VALID_NAMES:
            return None
        found[name] = value.strip(_BLANKS)
    return found


def _lines(headers: Mapping[str, Any]) -> bytes | None:
    """As they are sent. None: a name or a value is unusual."""
    if not _VALID_NAMES.issuperset(headers):
        return None
    # Not formatted: nats-py's own names are members of an enumeration, which would tell the name of the member.
    text = "".join([name + ": " + value.strip() + "\r\n" for name, value in headers.items()])
    if text.count("\n") != len(headers) or text.count("\r") != len(headers):
        return None
    return b"NATS/1.0\r\n%b\r\n" % text.encode()
