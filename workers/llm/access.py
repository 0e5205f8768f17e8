"""Knows how an endpoint is reached: its key in the right header, its certificates, the proxy on the way."""

import re
import ssl
from base64 import b64encode
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from fleet.errors import ConfigError
from fleet.secret_files import Certificates
from workers.llm.servers.endpoint import Endpoint

SHORTEST_SECRET, LONGEST_WORD = 4, 11
_WORD = re.compile(r"(?!sk-)[A-Za-z]+([-_][A-Za-z]+)*|[0-9]+")
"""What may stand in a text, or be a model's name: servers without keys are given `EMPTY`, say."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Access:
    """To one endpoint, with the secrets that its files hold when this is made. Raises `ConfigError`."""

    def __init__(self, endpoint: Endpoint) -> None:
        config = endpoint.config
        try:
            self.key = config.key()
            secret_headers = config.secret_headers()
            self._certificates = Certificates(config.ca) if config.ca else None
        except (ValueError, OSError) as error:
            raise ConfigError(f"endpoints.{endpoint.name}: {error}") from None
        self.headers = {**endpoint.dialect.headers, **config.headers, **secret_headers}
        if self.key and "authorization" not in {name.lower() for name in self.headers}:
            if endpoint.dialect.key_header == "bearer":
                self.headers["Authorization"] = f"Bearer {self.key}"
            else:
                self.headers[endpoint.dialect.key_header] = self.key
        for name, value in self.headers.items():
            if not (name.isascii() and name.isprintable() and value.isprintable()):
                raise ConfigError(f"endpoints.{endpoint.name}: the header {name} has characters that cannot be sent")
        self.proxy = _proxy_for(endpoint.url)
        # Who names a user in the URL and a key as well means the key.
        userinfo = urlsplit(endpoint.url).netloc.rpartition("@")[0]
        self.strips_user = bool(self.key) and bool(userinfo)
        self._secrets = _secrets(self.key, userinfo, secret_headers.values())
        self._no_words = tuple(each for each in self._secrets if len(each) > LONGEST_WORD or not _WORD.fullmatch(each))

    @property
    def tls(self) -> ssl.SSLContext | bool:
        """What its file says now: a connection that was verified otherwise is not used again."""
        return True if self._certificates is None else self._certificates.context()

    def hide(self, error: str) -> str:
        """What a server says of an error, without what was sent as a secret: some servers repeat it."""
        return _without(self._secrets, error)

    def hide_in_text(self, text: str) -> str:
        """The same for whatever else it sends, but for a secret that may be a word there."""
        return _without(self._no_words, text)


def _secrets(key: str | None, userinfo: str, headers: Iterable[str]) -> tuple[str, ...]:
    """Longest first. Values of headers count by their words, too: `Bearer …`."""
    candidates = {key, *headers, *(word for value in headers for word in value.split())}
    if userinfo:
        candidates |= {unquote(userinfo.partition(":")[2]), b64encode(unquote(userinfo).encode()).decode()}
    secrets = {each for each in candidates if each and len(each) >= SHORTEST_SECRET}
    return tuple(sorted(secrets, key=len, reverse=True))


def _without(secrets: Iterable[str], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _proxy_for(url: str) -> str | None:
    """What HTTP_PROXY, HTTPS_PROXY and NO_PROXY say; this machine is reached directly."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in LOOPBACK or proxy_bypass(host):
        return None
    return getproxies().get(parts.scheme)
