"""Connecting to NATS with the configured credentials: one way for every process."""

import asyncio
import re
import ssl
from typing import Any

import nats
import structlog
from nats.aio.client import Client

from fleet.config import Settings
from fleet.errors import ConfigError, Unreachable

log = structlog.get_logger(__name__)

RECONNECT_WAIT_S = 0.5
DISCONNECT_WITHIN_S = 2.0
OUTAGES = (nats.errors.Error, OSError, TimeoutError)
"""How NATS being away, full or too slow shows."""


def options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments for `nats.connect` (and for FastStream's broker): credentials, TLS, endless reconnects."""
    given: dict[str, Any] = {
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": RECONNECT_WAIT_S,
        "connect_timeout": 5,
        "ping_interval": 5,
        "max_outstanding_pings": 2,
        # While the server is away, publishing fails instead of piling up: the message that caused it comes again.
        "pending_size": 8 * 1024 * 1024,
    }
    if settings.nats_creds:
        given["user_credentials"] = settings.nats_creds
    if settings.nats_nkey_seed_file:
        given["nkeys_seed"] = settings.nats_nkey_seed_file
    if settings.nats_ca or settings.nats_cert:
        try:
            context = ssl.create_default_context(cafile=settings.nats_ca)
            if settings.nats_cert:
                context.load_cert_chain(settings.nats_cert, settings.nats_key)
        except OSError as error:
            raise ConfigError(f"NATS_CA, NATS_CERT, NATS_KEY: {error}") from None
        given["tls"] = context
    return given


def servers(settings: Settings) -> list[str]:
    """`NATS_URL` names one server or several of a cluster, separated by commas."""
    return [url.strip() for url in settings.nats.split(",") if url.strip()]


async def connect(settings: Settings, name: str, **more: Any) -> Client:
    """Raises `Unreachable` when there is no server; later losses are reconnected for ever."""
    first = {"max_reconnect_attempts": 1, "allow_reconnect": False}
    try:
        # nats-py retries the first connection as it does later ones: probe once, so that a wrong URL is an answer.
        probe = await nats.connect(
            servers(settings), name=f"{name}-probe", **{**options(settings), **first, **_quiet()}
        )
        await probe.close()
        return await nats.connect(servers(settings), name=name, **{**options(settings), **_quiet(), **more})
    except (OSError, nats.errors.Error, TimeoutError) as error:
        raise Unreachable(
            f"no NATS server answers at {_without_password(settings.nats)} ({error or type(error).__name__}): "
            "start one, set NATS_URL, or run `fleet up`"
        ) from None


async def disconnect(nc: Client) -> None:
    """Sends what there is to send, and closes, in whatever state the connection is."""
    try:
        async with asyncio.timeout(DISCONNECT_WITHIN_S):
            await nc.drain()
    except (nats.errors.Error, TimeoutError) as error:
        log.info("nats.not_drained", reason=error or type(error).__name__)
        try:
            await nc.close()
        except (OSError, RuntimeError):
            pass  # uvloop minds that the server has closed it already


def _without_password(urls: str) -> str:
    """`nats://user:secret@host:4222` -> `nats://user@host:4222`."""
    return re.sub(r"(?<=://)([^:/@]*):[^/@]*@", r"\1@", urls)


def _quiet() -> dict[str, Any]:
    async def ignore(_: Exception) -> None:
        """The loss of a connection is logged by those who use it."""

    return {"error_cb": ignore}


def _forgive_late_pongs() -> None:
    """nats-py 2.16 stops reading, and is deaf until its pings fail, when a pong comes after its flush has timed out."""
    process = Client._process_pong

    async def process_pong(client: Any) -> None:
        if client._pongs and client._pongs[0].done():
            client._pongs[0] = asyncio.get_running_loop().create_future()
        await process(client)

    Client._process_pong = process_pong


_forgive_late_pongs()
