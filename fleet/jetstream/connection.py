"""Connects to NATS with the configured credentials, in one way for every process."""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import unquote

import nats
from nats.aio.client import Client

from fleet.config import Settings, read_again
from fleet.errors import ConfigError, Unreachable
from fleet.jetstream.lasting import Connection
from fleet.jetstream.unreachable import why
from fleet.logger import Logger
from fleet.secret_files import Certificates

log = Logger(__name__)

RECONNECT_WAIT_S = 0.5
DISCONNECT_WITHIN_S = 2.0
OUTAGES = (nats.errors.Error, OSError, TimeoutError)
"""How NATS being away, full or too slow shows."""
ONCE: dict[str, Any] = {"max_reconnect_attempts": 1, "allow_reconnect": False}
"""For a connection that is to answer now, or not at all."""


def options(settings: Settings) -> dict[str, Any]:
    """How every connection is made: credentials, TLS, endless reconnects. Raises `ConfigError`."""
    arguments: dict[str, Any] = {
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": RECONNECT_WAIT_S,
        "connect_timeout": 5,
        "ping_interval": 5,
        "max_outstanding_pings": 2,
        # While the server is away, publishing fails instead of piling up: the message that caused it comes again.
        "pending_size": 8 * 1024 * 1024,
        "tls_handshake_first": settings.nats_tls_first,
        **_logins(settings),
    }
    if settings.nats_creds:
        arguments["user_credentials"] = _readable("NATS_CREDS", settings.nats_creds)
    if settings.nats_nkey_seed_file:
        arguments["nkeys_seed"] = _readable("NATS_NKEY_SEED_FILE", settings.nats_nkey_seed_file)
    if settings.nats_ca or settings.nats_cert:
        try:
            certificates = Certificates(settings.nats_ca, settings.nats_cert, settings.nats_key)
        except OSError as error:
            raise ConfigError(f"NATS_CA, NATS_CERT, NATS_KEY: {error}") from None
        arguments["tls"] = certificates.context  # what can be called is, for each connection: see `LastingClient`
    return arguments


def _logins(settings: Settings) -> dict[str, Any]:
    """As `_login`. What comes from files is read again for each connection: nats-py calls what can be called."""
    known = _login(settings)
    if not settings.secret_files:
        return known

    def newest(name: str) -> str:
        try:
            known.update(_login(read_again(settings)))
        except ConfigError as error:
            log.warning("secret.not_read_again", error=str(error))
        return known[name]

    return {name: partial(newest, name) for name in known}


def servers(settings: Settings) -> list[str]:
    """`NATS_URL` names one server or several of a cluster, separated by commas. Without user and password."""
    return [host for _, host in _urls(settings)]


def _urls(settings: Settings) -> Iterator[tuple[str, str]]:
    """`nats://user:password@host:4222` -> (`user:password`, `nats://host:4222`)."""
    for url in filter(None, map(str.strip, settings.nats.split(","))):
        scheme, slashes, rest = url.rpartition("://")
        userinfo, _, host = rest.rpartition("@")
        yield userinfo, f"{scheme}{slashes}{host}"


def _login(settings: Settings) -> dict[str, str]:
    """User and password, or the token, that stand in `NATS_URL`: for the servers that a cluster advertises, too.

    nats-py would give them to the server in whose URL they stand, and to no other. `NATS_USER`, `NATS_PASSWORD` and
    `NATS_TOKEN` are for URLs without them.
    """
    each = (("user", settings.nats_user), ("password", settings.nats_password), ("token", settings.nats_token))
    named = {name: value for name, value in each if value is not None}
    userinfos = {userinfo for userinfo, _ in _urls(settings) if userinfo}
    if len(userinfos) > 1:
        raise ConfigError("NATS_URL: all servers must have the same user and password, they are one cluster")
    if named:
        if userinfos:
            raise ConfigError("NATS_URL: it has a user or token, and so have NATS_USER, NATS_PASSWORD or NATS_TOKEN")
        if set(named) not in ({"user", "password"}, {"token"}):
            raise ConfigError(f"NATS_USER and NATS_PASSWORD, or NATS_TOKEN: only {_settings(named)} set")
        return named
    for userinfo in userinfos:
        user, colon, password = userinfo.partition(":")
        return {"user": unquote(user), "password": unquote(password)} if colon else {"token": unquote(user)}
    return {}


async def connect(settings: Settings, name: str, **more: Any) -> Connection:
    """Raises `Unreachable` when there is no server; later losses are reconnected for ever."""
    try:
        # nats-py retries the first connection as it does later ones: probe once, so that a wrong URL is an answer.
        await (await _open_once(settings, f"{name}-probe")).close()
        return await _open(settings, name, **more)
    except OUTAGES as error:
        raise Unreachable(why(settings, error)) from None


async def answers(settings: Settings, name: str, within_s: float) -> bool:
    """Whether NATS answers a connection that is made just now."""
    try:
        async with asyncio.timeout(within_s):
            nc = await _open_once(settings, name)
            try:
                await nc.request("$JS.API.INFO", timeout=within_s)
            finally:
                await nc.close()
    except (*OUTAGES, ConfigError):  # or a file of credentials is just being replaced
        return False
    return True


async def _open_once(settings: Settings, name: str) -> Connection:
    """On the first server that lets it in; what the last one said is raised.

    One by one: nats-py would not try the others after one that ends the connection in its greeting, as a server does
    that is being restarted. Such a one is tried once more: others may be behind the same address.
    """
    for is_last in (False, True):
        errors: list[Exception] = []
        for host in servers(settings):
            try:
                return await _open(settings, name, [host], **ONCE)
            except OUTAGES as error:
                errors.append(error)
        if is_last or not any(map(_is_closing, errors)):
            break
        await asyncio.sleep(RECONNECT_WAIT_S)
    raise errors[-1]


def _is_closing(error: Exception) -> bool:
    """Whether a server has ended the connection without a word of why, or is silent, as one that has just gone away is
    behind an address that stands for several.
    """
    unsaid = type(error) is nats.errors.Error and not any(word in str(error).lower() for word in ("authori", "authent"))
    return unsaid or isinstance(error, nats.errors.UnexpectedEOF | ConnectionResetError | TimeoutError)


async def _open(settings: Settings, name: str, hosts: Sequence[str] = (), **more: Any) -> Connection:
    """`hosts`: some of the servers; none: all."""
    nc = Connection()
    nc.error_listener = more.pop("error_cb", None)
    try:
        await nc.connect(
            list(hosts) or servers(settings), name=name, **{**options(settings), **more, "error_cb": nc.on_error}
        )
    except BaseException as error:
        with suppress(Exception):  # nats-py's own, where there was nothing to close yet
            async with asyncio.timeout(DISCONNECT_WITHIN_S):  # after a certificate that is not trusted it never ends
                await nc.close()
        if isinstance(error, nats.errors.NoServersError) and nc.heard is not None:
            raise nc.heard from None
        raise
    return nc


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


def _settings(named: Collection[str]) -> str:
    names = " and ".join(f"NATS_{name.upper()}" for name in named)
    return f"{names} {'is' if len(named) == 1 else 'are'}"


def _readable(setting: str, path: str) -> str:
    """`path`; raises `ConfigError` where nothing can be read there."""
    try:
        with open(path, "rb"):
            return path
    except OSError as error:
        raise ConfigError(f"{setting}: cannot read {path}: {error.strerror}") from None
