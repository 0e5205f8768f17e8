"""HTTP to a model server: one session per process; every failure becomes an `AgentCallError`."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
from msgspec import Struct, json

from fleet.config import Settings
from fleet.errors import AgentCallError
from fleet.messages import ChatMessage
from workers.llm.endpoints import Card, Endpoint
from workers.llm.failures import of_client_error, of_status, shorten
from workers.llm.retry import retry_after_s

KEEP_ALIVE_S = 4.0
"""Less than the 5 s after which uvicorn closes an idle connection, perhaps just as it is used again."""
REST_S = 1.0
MAX_ERROR_BODY_BYTES = 64 * 1024
SHORT_REQUEST_S = 10.0


MAX_STALE = 8


class _Meta(Struct):
    n_ctx: int | None = None


class _Model(Struct):
    id: str
    max_model_len: int | None = None
    meta: _Meta | None = None


class _Models(Struct):
    data: list[_Model]


class _Count(Struct):
    count: int


class _Connection(Struct):
    reused: bool = False


def _reuse_tracing() -> aiohttp.TraceConfig:
    """Notes in a request's `_Connection` whether it travels on a kept connection."""

    async def note(_: aiohttp.ClientSession, context: Any, __: aiohttp.TraceConnectionReuseconnParams) -> None:
        context.trace_request_ctx.reused = True

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_reuseconn.append(note)
    return tracing


class Http:
    """Requests to endpoints. To be made, and closed, on the event loop that uses it."""

    def __init__(self, settings: Settings) -> None:
        self._limits = settings.workers
        self._key = settings.vllm_api_key
        self._session = aiohttp.ClientSession(
            # The worker bounds its calls itself.
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=self._limits.connect_timeout_s,
                sock_read=self._limits.stall_timeout_s,
            ),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            read_bufsize=2**18,
            trace_configs=[_reuse_tracing()],
        )

    async def close(self) -> None:
        await self._session.close()

    @asynccontextmanager
    async def chat(
        self, endpoint: Endpoint, body: dict[str, Any], request_id: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A streamed completion with status 200. Left before its end, the connection closes, and the model stops."""
        response = await self._send(endpoint, "POST", "/v1/chat/completions", body, {"X-Request-Id": request_id})
        try:
            if not response.content_type.startswith("text/event-stream"):
                said = await self._text(response)
                raise AgentCallError(
                    "MalformedResponse", f"no event stream but {response.content_type}: {shorten(said)}", retryable=True
                )
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

    async def models(self, endpoint: Endpoint) -> tuple[Card, ...]:
        """GET /v1/models. Raises `AgentCallError`."""
        found = await self._short(endpoint, "GET", "/v1/models", None, _Models)
        return tuple(Card(m.id, m.max_model_len or (m.meta.n_ctx if m.meta else None)) for m in found.data)

    async def count_tokens(self, endpoint: Endpoint, model: str, messages: tuple[ChatMessage, ...]) -> int:
        """POST /tokenize, as vLLM has it. Raises `AgentCallError`."""
        body = {"model": model, "messages": messages}
        counted: _Count = await self._short(endpoint, "POST", "/tokenize", body, _Count)
        return counted.count

    async def _short(self, endpoint: Endpoint, method: str, path: str, body: Any, kind: Any) -> Any:
        try:
            async with asyncio.timeout(SHORT_REQUEST_S):
                response = await self._send(endpoint, method, path, body, {})
                try:
                    data = await response.read()
                finally:
                    response.release()
            return json.decode(data, type=kind)
        except TimeoutError:
            raise AgentCallError("Timeout", f"{path}: no answer within {SHORT_REQUEST_S:g} s", retryable=True) from None
        except aiohttp.ClientError as error:
            raise self._failure(error) from None
        except ValueError as error:
            raise AgentCallError("MalformedResponse", f"{path}: {shorten(str(error))}", retryable=True) from None

    async def _send(
        self, endpoint: Endpoint, method: str, path: str, body: Any, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        """A response with status 200, its body not yet read."""
        data = None if body is None else json.encode(body)
        if data is not None:
            headers = {**headers, "Content-Type": "application/json"}
        response = await self._respond(method, endpoint.url + path, data, headers)
        if response.status == 200:
            return response
        try:
            said = await self._text(response)
        finally:
            response.close()
        wait_s = retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC))
        raise of_status(response.status, said, wait_s)

    async def _respond(
        self, method: str, url: str, data: bytes | None, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        """A kept connection that its server had closed meanwhile is no failure: the next one is tried at once."""
        stale = 0
        while True:
            connection = _Connection()
            try:
                return await self._session.request(
                    method, url, data=data, headers=headers, allow_redirects=False, trace_request_ctx=connection
                )
            except aiohttp.ClientError as error:
                failure = self._failure(error)
                if failure.error_type != "ConnectionLost" or not connection.reused or stale >= MAX_STALE:
                    raise failure from None
                stale += 1

    async def _text(self, response: aiohttp.ClientResponse) -> str:
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
        text = data.decode("utf-8", "replace")
        return text.replace(self._key, "***") if self._key else text

    def _failure(self, error: aiohttp.ClientError) -> AgentCallError:
        # A certificate that does not verify will not do so a quarter of a second later.
        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError) or isinstance(
            error.__cause__, ssl.SSLError
        ):
            return AgentCallError("TlsFailed", shorten(str(error)), retryable=False)
        return of_client_error(error, self._limits.connect_timeout_s, self._limits.stall_timeout_s)
