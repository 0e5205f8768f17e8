"""Names a failed attempt, who is at fault, and what follows from it.

    fault      whose                                           breaker   what the call does next
    ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────
    server     the endpoint is ill                             counts    again: for ever if the model had not begun
    busy       the endpoint has no room now (429, full, loads) nothing   waits for as long as it was told, elsewhere if
                                                                         it can
    endpoint   this endpoint will not take it (401, 404, 400)  well      goes to another endpoint; here it ends
    request    nobody would take it                            nothing   ends
    answer     the model answered, and it is no good           well      asks for something else, once, or ends

Whether a call may wait is a matter of `begun`: what has not begun has cost nothing but time.
"""

from typing import Literal

import aiohttp

from fleet.errors import AgentCallError
from fleet.messages import ErrorType

SHOWN_CHARACTERS = 300
Fault = Literal["server", "busy", "endpoint", "request", "answer"]
CONNECTION_TYPES: frozenset[ErrorType] = frozenset(
    {"ConnectionRefused", "ConnectionFailed", "ConnectionLost", "Timeout"}
)
"""Failures of the connection as such, whatever was asked."""
NO_ANSWER = CONNECTION_TYPES | {"ServerError"}
"""What is heard of a server that is away, behind a proxy that is not."""


class AttemptError(AgentCallError):
    """One attempt failed: see the table above. `window`, `prompt_tokens`: what the error says of the context window."""

    def __init__(
        self,
        error_type: ErrorType,
        error: str,
        *,
        fault: Fault,
        begun: bool = True,
        retry_after_s: float | None = None,
        retryable: bool | None = None,
    ) -> None:
        if retryable is None:
            retryable = fault in ("server", "busy")
        super().__init__(error_type, error, retryable=retryable, retry_after_s=retry_after_s)
        self.fault: Fault = fault
        self.begun = begun
        self.window: int | None = None
        self.prompt_tokens: int | None = None
        self.body = ""
        """What the server sent, whole."""

    def at(self, where: str) -> "AttemptError":
        """The same, with the endpoint's URL in its text."""
        copy = type(self)(
            self.error_type,
            f"{where}: {self.error}",
            fault=self.fault,
            begun=self.begun,
            retry_after_s=self.retry_after_s,
            retryable=self.retryable,
        )
        copy.window, copy.prompt_tokens, copy.body = self.window, self.prompt_tokens, self.body
        return copy


def of(error: AgentCallError) -> AttemptError:
    """Any error as one of an attempt: what is not known better is the request's fault."""
    if isinstance(error, AttemptError):
        return error
    fault: Fault = "answer" if error.error_type == "InvalidAnswer" else "request"
    return AttemptError(error.error_type, error.error, fault=fault, retryable=error.retryable)


def shorten(text: str) -> str:
    """The beginning, and how long it was: nothing is cut without a word."""
    text = " ".join(text.split())
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]}… ({len(text)} characters in all)"


def invalid(what: str) -> AttemptError:
    """The model answered, but not what was asked for: it is told so and asked again."""
    return AttemptError("InvalidAnswer", shorten(what), fault="answer", retryable=True)


def malformed(what: str) -> AttemptError:
    """The server's answer cannot be read."""
    return AttemptError("MalformedResponse", what, fault="server")


def of_client_error(error: aiohttp.ClientError, connect_timeout_s: float) -> AttemptError:
    """Before the first byte of a response."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            text = f"no connection within {connect_timeout_s:g} s"
            return AttemptError("Timeout", text, fault="server", begun=False)
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, ConnectionRefusedError):
            return AttemptError("ConnectionRefused", "nobody listens there", fault="server", begun=False)
        case aiohttp.ClientConnectorError():
            return AttemptError("ConnectionFailed", shorten(str(error)), fault="server", begun=False)
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return AttemptError("ConnectionLost", "closed before a response came", fault="server")
        case aiohttp.ClientPayloadError():
            return AttemptError("ConnectionLost", "closed in the middle of a response", fault="server")
        case aiohttp.InvalidURL():
            return AttemptError("BadRequest", "its URL is not usable", fault="endpoint", begun=False)
        case _:
            return malformed(f"no HTTP response: {shorten(str(error))}")
