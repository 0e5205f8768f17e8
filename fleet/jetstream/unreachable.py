"""Explains why NATS could not be reached: wrong password, TLS or a refused connection, without any secret."""

import asyncio
import socket
import ssl
from urllib.parse import unquote

import nats.errors

from fleet.config import Settings, without_userinfo
from fleet.secret_files import file_of

TLS = "see NATS_CA, NATS_CERT, NATS_KEY"
START = "start one, set NATS_URL, or run `fleet up`"


def why(settings: Settings, error: BaseException) -> str:
    """A sentence for people, with the server's address, the user's name, and what to do."""
    where, text = without_userinfo(settings.nats), str(error).lower()
    match error:
        case ssl.SSLCertVerificationError():
            return f"NATS at {where} shows a certificate that is not trusted here ({error.verify_message}): set NATS_CA"
        case ssl.SSLError() if "certificate_required" in text or "certificate required" in text:
            return f"NATS at {where} wants a client's certificate: set NATS_CERT and NATS_KEY"
        case ssl.SSLError():
            return f"TLS with NATS at {where} failed ({error.reason or 'no reason given'}): {TLS}"
        case nats.errors.SecureConnRequiredError():
            return f"NATS at {where} wants TLS: write tls:// in NATS_URL, and set NATS_CA for a private authority"
        case nats.errors.SecureConnWantedError():
            return f"NATS at {where} offers no TLS, and NATS_URL or NATS_CA asks for it"
        case socket.gaierror():
            return f"no NATS server answers at {where} (there is no host of that name): correct NATS_URL"
        case ConnectionRefusedError():
            return f"no NATS server answers at {where} (nobody listens there): {START}"
        case TimeoutError() | asyncio.TimeoutError() | nats.errors.TimeoutError():
            return f"no NATS server answers at {where} (it is silent): {START}"
    if "authorization" in text or "authentication" in text:
        return f"NATS at {where} refuses {user(settings)}: {_credentials(settings)}"
    if "certificate" in text:
        return f"TLS with NATS at {where} failed: {TLS}"
    if isinstance(error, ConnectionError) and settings.nats_ca and not settings.nats_cert:
        return f"NATS at {where} closes the connection after TLS: does it want NATS_CERT and NATS_KEY?"
    if isinstance(error, nats.errors.UnexpectedEOF | ConnectionResetError | nats.errors.NoServersError):
        return f"no NATS server answers at {where} (the connection is closed: does it want TLS?): {START}"
    if "expecting info" in text and not settings.nats_tls_first:
        return f"no NATS server answers at {where} (no greeting: does it want TLS first, NATS_TLS_FIRST=true?): {START}"
    reason = getattr(error, "strerror", None) or type(error).__name__
    return f"no NATS server answers at {where} ({reason}): {START}"


def user(settings: Settings) -> str:
    """Who this is, as far as it may be shown: a user without a password is a token."""
    if settings.nats_creds:
        return f"the user of NATS_CREDS {settings.nats_creds}"
    if settings.nats_nkey_seed_file:
        return f"the key of NATS_NKEY_SEED_FILE {settings.nats_nkey_seed_file}"
    if settings.nats_user:
        return f"user {settings.nats_user!r}"
    if settings.nats_token:
        return "the token"
    userinfo = settings.nats.split(",")[0].rpartition("://")[2].rpartition("@")[0]
    name, colon, _ = userinfo.partition(":")
    if colon:
        return f"user {unquote(name)!r}"
    return "the token" if name else "who has no name and password"


def _credentials(settings: Settings) -> str:
    if settings.nats_creds or settings.nats_nkey_seed_file:
        return "it does not know them, or they have expired"
    if files := [file_of(name) for name in settings.secret_files if name.startswith("NATS_")]:
        return f"the name, the password or the token is wrong: see {', '.join(files)}"
    if settings.nats_user or settings.nats_token:
        return "NATS_USER and NATS_PASSWORD, or NATS_TOKEN, are wrong"
    if "@" in settings.nats:
        return "the name, the password or the token in NATS_URL is wrong"
    return (
        "give them in NATS_URL (nats://USER:PASSWORD@HOST:4222), by NATS_PASSWORD_FILE, "
        "NATS_CREDS or NATS_NKEY_SEED_FILE"
    )
