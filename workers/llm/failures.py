"""What a failed attempt is called, and whether another one is worth it.

Worth it: refused or lost connections, timeouts, stalled or truncated streams, malformed, empty or invalid answers, and
the statuses 408, 425, 429 and 5xx.
"""

from typing import Any

import aiohttp
import msgspec

from fleet.errors import AgentCallError
from fleet.messages import ErrorType
from workers.llm.breaker import Outcome

SHOWN_CHARACTERS = 300
CONNECTION_TYPES: frozenset[ErrorType] = frozenset(
    {"ConnectionRefused", "ConnectionFailed", "ConnectionLost", "Timeout"}
)
"""Failures of the connection as such, whatever was asked."""
SERVER_TYPES: frozenset[ErrorType] = CONNECTION_TYPES | {
    "ServerError",
    "StreamStalled",
    "StreamTruncated",
    "MalformedResponse",
    "TlsFailed",
}
"""Failures of the endpoint: its breaker counts them."""

_NAMES: dict[int, ErrorType] = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Unauthorized",
    404: "NotFound",
    408: "Timeout",
    413: "RequestTooLarge",
    422: "BadRequest",
    425: "TooEarly",
    429: "RateLimited",
}
_OVERFLOWS = (
    "maximum context length",
    "context_length_exceeded",
    "exceed_context_size",
    "exceeds the available context",
)


def shorten(text: str) -> str:
    """The beginning, and how long it was: nothing is cut without a word."""
    text = " ".join(text.split())
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]}… ({len(text)} characters in all)"


def invalid(what: str) -> AgentCallError:
    """The model answered, but not what was asked for: it is told so and asked again."""
    return AgentCallError("InvalidAnswer", shorten(what), retryable=True)


def outcome_of(error: AgentCallError | None) -> Outcome:
    """What an attempt says of its endpoint: one that answers is well, whatever it says of the request."""
    if error is None:
        return "succeeded"
    if error.error_type == "ContextOverflow":
        return "abandoned"  # It was not even asked, perhaps.
    return "failed" if error.error_type in SERVER_TYPES else "succeeded"


def is_retryable(status: int) -> bool:
    return status in (408, 425, 429) or status >= 500


def of_status(status: int, body: str, retry_after_s: float | None = None) -> AgentCallError:
    """A response that is not 200."""
    said = _said(body)
    if status == 400 and any(mark in body for mark in _OVERFLOWS):
        return AgentCallError("ContextOverflow", f"HTTP 400: {shorten(said)}", retryable=False)
    name: ErrorType = _NAMES.get(status) or ("ServerError" if status >= 500 else "UnexpectedStatus")
    text = f"HTTP {status}: {shorten(said)}" if said else f"HTTP {status}"
    return AgentCallError(name, text, retryable=is_retryable(status), retry_after_s=retry_after_s)


def of_error_object(error: Any) -> AgentCallError:
    """An `error` in the midst of a stream that began with 200."""
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) and 400 <= code <= 599 else 500
    found = of_status(status, msgspec.json.encode({"error": error}).decode())
    return AgentCallError(found.error_type, f"in the stream: {found.error}", retryable=found.retryable)


def of_client_error(error: aiohttp.ClientError, connect_timeout_s: float, stall_timeout_s: float) -> AgentCallError:
    """Before the first byte of a response."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return AgentCallError("Timeout", f"no connection within {connect_timeout_s:g} s", retryable=True)
        case aiohttp.ServerTimeoutError():
            return AgentCallError("Timeout", f"no response within {stall_timeout_s:g} s", retryable=True)
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, ConnectionRefusedError):
            return AgentCallError("ConnectionRefused", "nobody listens there", retryable=True)
        case aiohttp.ClientConnectorError():
            return AgentCallError("ConnectionFailed", shorten(str(error)), retryable=True)
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return AgentCallError("ConnectionLost", "closed before a response came", retryable=True)
        case aiohttp.ClientPayloadError():
            return AgentCallError("ConnectionLost", "closed in the middle of a response", retryable=True)
        case aiohttp.InvalidURL():
            return AgentCallError("BadRequest", "VLLM_URL is no usable URL", retryable=False)
        case _:
            return AgentCallError("MalformedResponse", f"no HTTP response: {shorten(str(error))}", retryable=True)


def _said(body: str) -> str:
    """The message in an error body: OpenAI's, vLLM's, llama.cpp's or a proxy's."""
    try:
        found = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return body
    for _ in range(2):
        if isinstance(found, dict):
            found = next((found[key] for key in ("error", "message", "detail") if found.get(key)), body)
    return found if isinstance(found, str) else body
