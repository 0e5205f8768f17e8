"""Reads secrets from files, as Kubernetes and Docker mount them: `X_FILE` names the file that holds the setting X.

Errors name the setting and the file, and never what is in it. Files may be replaced in place: see `Certificates`.
"""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fleet.errors import ConfigError
from fleet.logger import Logger

log = Logger(__name__)

SECRETS: Final = ("NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_TOKEN", "VLLM_URL", "VLLM_API_KEY")
"""Settings that may hold a secret. `NATS_CREDS`, `NATS_NKEY_SEED_FILE` and `NATS_KEY` name files anyway."""
SUFFIX: Final = "_FILE"
MOST_BYTES = 64 * 1024


def file_of(name: str) -> str:
    """The setting that names the file."""
    return f"{name}{SUFFIX}"


def overlaid(environ: Mapping[str, str], **values: str) -> dict[str, str]:
    """`environ` with these settings in place of its own, wherever those come from."""
    return {**{name: value for name, value in environ.items() if name not in map(file_of, values)}, **values}


def with_files(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, with what the files say that they name. Raises `ConfigError`."""
    found = dict(values)
    for name in SECRETS:
        setting = file_of(name)
        if (path := values.get(setting)) in (None, ""):
            continue
        if values.get(name) not in (None, ""):
            raise ConfigError(f"{name} and {setting} are both set: leave one away")
        found[name] = content(setting, str(path).strip())
    return found


def content(setting: str, path: str) -> str:
    """What the file says, without spaces and line ends around it. Raises `ConfigError`."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "that is no path"
        raise ConfigError(f"{setting}: cannot read {path}: {reason}") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{setting}: {path} is larger than {MOST_BYTES} bytes")
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{setting}: {path} is no UTF-8") from None
    if not text:
        raise ConfigError(f"{setting}: {path} is empty")
    return text


class Certificates:
    """What TLS trusts and shows, as its files are when it is asked for: certificates are replaced while a process runs.

    Raises `OSError` (`ssl.SSLError` is one) where the first reading fails. Later the last that could be read counts:
    a certificate may be there a moment before its key is.
    """

    def __init__(self, ca: str | None, cert: str | None = None, key: str | None = None) -> None:
        self._ca, self._cert, self._key = ca, cert, key
        self._stamp = self._looked_at()
        self._context = self._read()

    def context(self) -> ssl.SSLContext:
        """The same one for as long as the files are the same."""
        try:
            stamp = self._looked_at()
            if stamp != self._stamp:
                self._context, self._stamp = self._read(), stamp
        except OSError as error:
            log.warning("certificate.not_read_again", error=str(error))
        return self._context

    def _read(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._ca)
        if self._cert:
            context.load_cert_chain(self._cert, self._key)
        return context

    def _looked_at(self) -> list[tuple[int, ...]]:
        """Whatever changes when a file is replaced, or written anew."""
        found = [os.stat(path) for path in (self._ca, self._cert, self._key) if path]
        return [(stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in found]
