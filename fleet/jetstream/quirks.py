"""Holds every private part of nats-py (2.16) that is used or mended, with its reason, here and in `quick_client`."""

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.js import JetStreamContext
from nats.js.kv import KeyValue
from nats.micro.request import Request
from nats.micro.service import Service

from fleet.jetstream.quick_client import QuickClient
from fleet.logger import Logger, Seldom

log = Logger(__name__)
_not_read = Seldom()

logging.getLogger("asyncio").addFilter(lambda record: "eof_received" not in str(record.msg))
"""asyncio says it at the end of each TLS connection that nats-py makes, and means nothing by it."""

Handler = Callable[[Msg], Awaitable[None]]
_LINE = b"NATS/1.0"
_LINE_END = b"\r\n"


class LastingClient(QuickClient):
    """nats-py's client, which comes back or is `closed`: nothing ends its reading or its reconnecting unheard."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = asyncio.Event()
        """Set once it is given up for good: its user was taken away, say."""
        self._ending: asyncio.Task[None] | None = None
        self._left: Any = None
        """The server that was left: others are tried first."""

    def before_reconnect(self) -> None:
        """Called when the connection is lost, before another one is tried."""

    @property
    def offers_jetstream(self) -> bool:
        """Whether the server that it is connected to has JetStream; others of a cluster may have it."""
        return bool(self._server_info.get("jetstream"))

    @property
    def server_id(self) -> str:
        """Of the server that it is connected to."""
        return str(self._server_info.get("server_id", ""))

    async def leave_server(self) -> None:
        """Goes to another one, as when the connection is lost."""
        self._left = self._current_server
        await self._process_op_err(ConnectionError("left"))

    async def _select_next_server(self) -> None:
        """nats-py takes any, the one that was just left among them."""
        self._server_pool.sort(key=lambda server: server is self._left)
        await super()._select_next_server()
        self._left = None

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """nats-py keeps the certificates of its first connection; here a function may give those of each."""
        tls = self.options.get("tls")
        return tls() if callable(tls) else super().ssl_context

    async def _process_connect_init(self) -> None:
        """nats-py reads the seed of an nkey for each signature, but its public key once."""
        if self._nkeys_seed is not None:
            try:
                self._setup_nkeys_seed_connect()
            except Exception as error:  # whatever `nkeys` has, which is optional
                log.warning("nkey.not_read_again", error=repr(error))
        await super()._process_connect_init()

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """nats-py tells the end of a connection to one callback, which belongs to whoever connects."""
        try:
            await super()._close(status, do_cbs)
        finally:
            if status == Client.CLOSED:
                self.closed.set()

    async def _attempt_reconnect(self) -> None:
        """In nats-py, what a callback raises ends the reconnecting, and the connection counts as open for ever."""
        self.before_reconnect()
        try:
            await super()._attempt_reconnect()
        except Exception as error:
            log.error("nats.not_reconnected", error=repr(error))
            self._ending = asyncio.create_task(self.close())  # not here: closing waits for this task

    async def _connect_to_server(self, s: Any) -> None:
        """nats-py forgets the transport of an attempt that was refused."""
        if isinstance(self._transport, TcpTransport):
            self._transport.close()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)

    async def _process_pong(self) -> None:
        """nats-py stops reading, and is deaf until its pings fail, when a pong comes after its flush timed out."""
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        """The status line may hold anything on core subjects. What cannot be read is left out, as JetStream does."""
        try:
            return await super()._process_headers(headers)
        except (ValueError, IndexError):
            _, _, rest = (headers or b"").partition(_LINE_END)
            return await super()._process_headers(_LINE + _LINE_END + rest)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        """In nats-py, one message that cannot be read (its subject is no UTF-8, say) ends the reading of all."""
        try:
            await super()._process_msg(sid, subject, reply, data, headers)
        except Exception as error:
            told = subject.decode(errors="replace")
            if (count := _not_read.count(told)) is not None:
                log.warning("nats.message_not_read", subject=told, error=repr(error), count=count)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """`max_payload` is the server's newest. An advertised address is verified by the name that `NATS_URL` gives.

        nats-py takes the name of the server that told of it, which may itself be known by its address only. And it goes
        on in the clear, password and all, where TLS was asked for and the server does not insist on it.
        """
        if initial_connection and self._wants_tls() and not info.get("tls_required"):
            raise nats.errors.SecureConnWantedError
        await super()._process_info(info, initial_connection)
        self._max_payload = info.get("max_payload", self._max_payload)
        teller = self._current_server
        if teller is not None and teller.discovered and teller.tls_name:
            for server in self._server_pool:
                if server.tls_name == teller.uri.hostname:
                    server.tls_name = teller.tls_name

    def _wants_tls(self) -> bool:
        scheme = self._current_server.uri.scheme if self._current_server else ""
        return scheme == "tls" or (self.options.get("tls") is not None and scheme not in ("ws", "wss"))


def drop_unsent(nc: Client) -> None:
    """Forgets what has not left yet. nats-py would send it after a reconnect, when another may have published it."""
    nc._pending.clear()
    nc._pending_data_size = 0


def deliver_to(subscription: JetStreamContext.PushSubscription, handler: Handler) -> None:
    """What comes from now on goes to `handler`, and not to what has subscribed."""
    subscription._sub._cb = handler


def forget_subscription(nc: Client, sub: Subscription) -> None:
    """Without a word to the server, whose connection is gone. nats-py would subscribe it again after a reconnect."""
    nc._remove_sub(sub._id)


def wrap_verbs(service: Service, wrap: Callable[[Handler], Handler]) -> None:
    """Puts `wrap` around the handlers of `$SRV.PING`, `.INFO` and `.STATS`, which nats-py keeps to itself."""
    for verb in service._subscriptions.values():
        assert verb._cb is not None
        verb._cb = wrap(verb._cb)


async def drain_endpoints(service: Service) -> None:
    """nats-py's own `stop` would drop what has arrived."""
    for endpoint in service._endpoints:
        if endpoint._subscription is not None:
            await endpoint._subscription.drain()
    service._endpoints.clear()


def count_call(service: Service, subject: str, took_ns: int, error: str | None) -> None:
    """Adds a call to what `$SRV.STATS` says: nats-py sees only that a task was started for it."""
    for endpoint in service._endpoints:
        if endpoint._subject == subject:
            endpoint._processing_time += took_ns
            endpoint._average_processing_time = endpoint._processing_time // max(1, endpoint._num_requests)
            if error is not None:
                endpoint._num_errors += 1
                endpoint._last_error = error


def message_of(request: Request) -> Msg:
    """nats-py's request has no public reply subject."""
    return request._msg


def with_data(request: Request, data: bytes) -> Request:
    """The same request, as if this were its body."""
    return Request(replace(request._msg, data=data))


async def entries(js: JetStreamContext, bucket: str) -> AsyncGenerator[KeyValue.Entry, None]:
    """What lies in the bucket now, marks of what was deleted too. Close it with `aclosing`.

    nats-py's watcher may say that this was all before the first has come: while it is on its way, NATS counts it as
    delivered. And it leaves its consumer behind, for five minutes.
    """
    watcher: Any = await (await js.key_value(bucket)).watchall()
    try:
        async for entry in watcher:
            if entry is not None:
                yield entry
                if not entry.delta:
                    return
            elif not (await watcher._sub.consumer_info()).delivered.consumer_seq:
                return
    finally:
        await watcher.stop()
        await js.delete_consumer(f"KV_{bucket}", (await watcher._sub.consumer_info()).name)
