"""Sends HTTP requests to model servers: one session per process; every failure becomes an `AttemptError`."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from msgspec import json

from fleet.errors import ConfigError
from fleet.limits.workers import Workers
from fleet.messages import ChatMessage
from fleet.model_servers import beside_v1, joined
from workers.llm.access import Access
from workers.llm.failures import AttemptError, malformed, of_client_error, shorten
from workers.llm.refusals import is_page, of_page, of_status, status_within
from workers.llm.retry_after import asked_wait_s
from workers.llm.servers.cards import cards_in, is_empty_list
from workers.llm.servers.endpoint import Endpoint, ModelCard

KEEP_ALIVE_S = 4.0
"""Less than the 5 s after which uvicorn closes an idle connection, perhaps just as it is used again."""
REST_S = 1.0
MAX_ERROR_BODY_BYTES = 64 * 1024
MAX_HEADER_BYTES = 64 * 1024
MAX_BODY_BYTES = 16 * 2**20
"""Of answers that are read whole. A larger one would fill the worker's memory, and hold up all its calls."""
SHORT_REQUEST_S = 10.0
LOAD_WITHIN_S = 60.0
MAX_STALE = 8


class _Connection:
    """Whether a request travels on a kept connection."""

    reused = False


def _reuse_tracing() -> aiohttp.TraceConfig:
    async def note(_: aiohttp.ClientSession, context: Any, __: aiohttp.TraceConnectionReuseconnParams) -> None:
        context.trace_request_ctx.reused = True

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_reuseconn.append(note)
    return tracing


def _json(path: str, data: bytes) -> Any:
    if is_page(text := data.decode("utf-8", "replace")):
        raise of_page(text)
    try:
        return json.decode(data)
    except (ValueError, RecursionError) as error:
        raise malformed(f"{path}: {shorten(str(error))}") from None


async def _whole(path: str, response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > MAX_BODY_BYTES:
            raise malformed(f"{path}: an answer of more than {MAX_BODY_BYTES} bytes")
    return bytes(data)


class Http:
    """Requests to endpoints. To be made, and closed, on the event loop that uses it."""

    def __init__(self, limits: Workers) -> None:
        self._connect_timeout_s = limits.connect_timeout_s
        self._access: dict[str, Access] = {}
        self._session = aiohttp.ClientSession(
            # The worker bounds its calls itself.
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_timeout_s),
            read_bufsize=2**18,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            trace_configs=[_reuse_tracing()],
        )

    def know(self, endpoint: Endpoint) -> None:
        """Raises `ConfigError` for a key or a certificate that is not there."""
        self._access[endpoint.name] = Access(endpoint)

    def hide(self, endpoint: Endpoint, error: AttemptError) -> AttemptError:
        """`error` without the endpoint's secrets, wherever its server has put them."""
        hide = self._access[endpoint.name].hide
        error.error, error.body = hide(error.error), hide(error.body)
        error.args = tuple(hide(each) if isinstance(each, str) else each for each in error.args)
        return error

    def hiding(self, endpoint: Endpoint) -> Callable[[str], str]:
        """Takes the endpoint's secrets out of what its server sends: some repeat them, wherever."""
        return self._access[endpoint.name].hide_in_text

    async def close(self) -> None:
        await self._session.close()

    @asynccontextmanager
    async def chat(
        self, endpoint: Endpoint, body: dict[str, Any], headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A completion with status 200. Left before its end, the connection closes, and the model stops."""
        response = await self._send(endpoint, "POST", endpoint.url, body, headers)
        try:
            yield response
        finally:
            response.close()

    async def read_rest(self, response: aiohttp.ClientResponse) -> None:
        """Reads the end of the body after the last event, so that the connection can be used again."""
        try:
            async with asyncio.timeout(REST_S):
                await response.read()
        except (aiohttp.ClientError, TimeoutError):
            pass  # All that matters has come.

    async def models(self, endpoint: Endpoint) -> tuple[ModelCard, ...]:
        """Asks for `GET …/models`. Raises `AttemptError`."""
        url = joined(endpoint.base, "/models")
        value = await self._short(endpoint, "GET", url, None)
        cards = cards_in(value)
        if not cards and not is_empty_list(value):
            raise malformed(f"{urlsplit(url).path}: no list of models but {shorten(str(value))}")
        return cards

    async def load_adapter(self, endpoint: Endpoint, name: str, adapter: str) -> None:
        """POST …/load_lora_adapter, as vLLM has it. Raises `AttemptError`."""
        body = {"lora_name": name, "lora_path": adapter}
        url = joined(endpoint.base, "/load_lora_adapter")
        async with asyncio.timeout(LOAD_WITHIN_S):
            (await self._send(endpoint, "POST", url, body, {})).close()

    async def count_tokens(self, endpoint: Endpoint, model: str, messages: tuple[ChatMessage, ...]) -> int:
        """POST /tokenize, as vLLM has it. Raises `AttemptError`."""
        url = beside_v1(endpoint.base, "/tokenize")
        value = await self._short(endpoint, "POST", url, {"model": model, "messages": messages})
        count = value.get("count") if isinstance(value, dict) else None
        if not isinstance(count, int):
            raise malformed("/tokenize: no count")
        return count

    async def beside(self, endpoint: Endpoint, path: str, body: Any, headers: dict[str, str]) -> Any:
        """What a route of vLLM beside `/v1` answers, whenever that comes. Raises `AttemptError`."""
        response = await self._send(endpoint, "POST", beside_v1(endpoint.base, path), body, headers)
        try:
            return _json(path, self._hidden(endpoint, await _whole(path, response)))
        except aiohttp.ClientError as error:
            raise self._failure(error) from None
        finally:
            response.close()

    async def _short(self, endpoint: Endpoint, method: str, url: str, body: Any) -> Any:
        path = urlsplit(url).path
        try:
            async with asyncio.timeout(SHORT_REQUEST_S):
                response = await self._send(endpoint, method, url, body, {})
                try:
                    data = await _whole(path, response)
                finally:
                    response.release()
            return _json(path, self._hidden(endpoint, data))
        except TimeoutError:
            text = f"{path}: no answer within {SHORT_REQUEST_S:g} s"
            raise AttemptError("Timeout", text, fault="server", begun=False) from None
        except aiohttp.ClientError as error:
            raise self._failure(error) from None

    def _hidden(self, endpoint: Endpoint, data: bytes) -> bytes:
        return self.hiding(endpoint)(data.decode("utf-8", "replace")).encode()

    async def _send(
        self, endpoint: Endpoint, method: str, url: str, body: Any, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        """A response with a status of success, its body not yet read."""
        access = self._access[endpoint.name]
        data = None if body is None else json.encode(body)
        response = await self._respond(method, url, data, headers, access)
        if response.status == 401 and (renewed := self._renewed(endpoint, access)) is not None:
            response.close()
            access = renewed
            response = await self._respond(method, url, data, headers, access)
        if 200 <= response.status < 300:
            return response
        try:
            body = await self._text(response, access)
        finally:
            response.close()
        wait_s = asked_wait_s(response.headers, body, datetime.now(UTC))
        status = status_within(response.status, body)
        error = of_status(status, body, wait_s, response.headers.get("Location"))
        if error.error_type == "NotFound":
            error = error.at(f"{method} {urlsplit(url).path}")
        raise error

    def _renewed(self, endpoint: Endpoint, access: Access) -> Access | None:
        """With the key that its file holds now; None: it is the same one."""
        try:
            renewed = Access(endpoint)
        except ConfigError:
            return None
        if renewed.headers == access.headers:
            return None
        self._access[endpoint.name] = renewed
        return renewed

    async def _respond(
        self, method: str, url: str, data: bytes | None, headers: dict[str, str], access: Access
    ) -> aiohttp.ClientResponse:
        """A kept connection that its server had closed meanwhile is no failure: the next one is tried at once."""
        if access.strips_user:
            parts = urlsplit(url)
            url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        stale = 0
        while True:
            connection = _Connection()
            try:
                return await self._session.request(
                    method,
                    url,
                    data=None if data is None else aiohttp.BytesPayload(data, content_type="application/json"),
                    headers={**headers, **access.headers},
                    allow_redirects=False,
                    trace_request_ctx=connection,
                    ssl=access.tls,
                    proxy=access.proxy,
                )
            except aiohttp.ClientError as error:
                failure = self._failure(error)
                if failure.error_type != "ConnectionLost" or not connection.reused or stale >= MAX_STALE:
                    raise failure from None
                stale += 1

    async def _text(self, response: aiohttp.ClientResponse, access: Access) -> str:
        """The beginning of an error's body, or as much as came; without our key, which some servers repeat."""
        data = bytearray()
        try:
            async with asyncio.timeout(REST_S):
                async for chunk in response.content.iter_any():
                    data += chunk
                    if len(data) > MAX_ERROR_BODY_BYTES:
                        break
        except (aiohttp.ClientError, TimeoutError):
            pass  # The status says enough.
        return access.hide(data.decode("utf-8", "replace"))

    def _failure(self, error: aiohttp.ClientError) -> AttemptError:
        # A certificate that does not verify will not do so a quarter of a second later.
        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError) or isinstance(
            error.__cause__, ssl.SSLError
        ):
            return AttemptError("TlsFailed", shorten(str(error)), fault="endpoint", begun=False)
        return of_client_error(error, self._connect_timeout_s)
