"""Names every reason why an agent call can fail: the values of `error_type`. `subjects.md` says what each means."""

from typing import TYPE_CHECKING, Annotated, Literal, get_args

from msgspec import Meta

ErrorType = Literal[
    # the connection
    "ConnectionRefused",
    "ConnectionFailed",
    "ConnectionLost",
    "TlsFailed",
    "Timeout",
    # the server
    "ServerError",
    "RateLimited",
    "TooEarly",
    "Unauthorized",
    "NotFound",
    "UnexpectedStatus",
    # the request
    "BadRequest",
    "RequestTooLarge",
    "ContextOverflow",
    "PromptTruncated",
    "UnknownRole",
    # the answer
    "StreamStalled",
    "MalformedResponse",
    "EmptyResponse",
    "InvalidAnswer",
    "UncheckedAnswer",
    "Truncated",
    "ContentFiltered",
    "Refused",
    "Overtaken",
    # the fleet
    "DeadlineExceeded",
    "Undeliverable",
    "WorkerLost",
    "InternalError",
]
"""Closed in the code: nothing else is written or compared."""

if TYPE_CHECKING:
    SentErrorType = ErrorType
else:
    SentErrorType = Annotated[str, Meta(extra_json_schema={"examples": list(get_args(ErrorType))})]
    """Open on the wire: a newer worker may send a name that this version does not know."""
