"""Defines the bodies and errors of vLLM's OpenAI-compatible HTTP API."""

import re
from typing import Annotated, Any, Literal, TypeVar, assert_never

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

Positive = Annotated[int, Meta(ge=1)]
FinishReason = Literal["stop", "length"]


class ApiError(Exception):
    """An error the server answers with: `status`, and a body that names the parameter at fault."""

    def __init__(
        self, status: int, kind: str, message: str, param: str | None = None, retry_after: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


def bad_request(message: str, param: str | None) -> ApiError:
    return ApiError(400, "BadRequestError", message, param)


def unknown_model(name: str) -> ApiError:
    return ApiError(404, "NotFoundError", f"The model `{name}` does not exist.", "model")


def too_long(limit: int, prompt_tokens: int, asked_tokens: int) -> ApiError:
    message = (
        f"This model's maximum context length is {limit} tokens. However, you requested {asked_tokens} "
        f"output tokens and your prompt contains at least {prompt_tokens} input tokens, for a total of "
        f"at least {prompt_tokens + asked_tokens} tokens. Please reduce the length of the input prompt or "
        "the number of requested output tokens."
    )
    return bad_request(message, "input_tokens")


def overloaded() -> ApiError:
    return ApiError(503, "ServiceUnavailableError", "The server is overloaded: too many requests are queued.")


def fault_error(kind: Literal["http_429", "http_500", "http_503"], retry_after_s: float) -> ApiError:
    """The error a fault of that name answers with."""
    match kind:
        case "http_429":
            return ApiError(429, "RateLimitError", "Too many requests.", retry_after=f"{retry_after_s:g}")
        case "http_500":
            return ApiError(500, "InternalServerError", "EngineCore encountered an issue.")
        case "http_503":
            return ApiError(503, "ServiceUnavailableError", "The engine is not available.")
        case _:
            assert_never(kind)


# What is asked. Unknown fields are ignored, as vLLM does.


class TextPart(Struct, frozen=True):
    type: str
    text: str = ""


class ChatMessage(Struct, frozen=True):
    role: str
    content: str | list[TextPart] | None = None

    def pair(self) -> tuple[str, str]:
        """Role and text; the parts of a multi-part message joined by line breaks."""
        if isinstance(self.content, list):
            return self.role, "\n".join(part.text for part in self.content)
        return self.role, self.content or ""


class JsonSchemaFormat(Struct, frozen=True):
    name: str
    schema: dict[str, Any] | bool


class ResponseFormat(Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StreamOptions(Struct, frozen=True):
    include_usage: bool = False


class ChatRequest(Struct, frozen=True, kw_only=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    model: str | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    seed: int | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    @property
    def limit_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class TokenizeRequest(Struct, frozen=True, kw_only=True):
    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None


_Request = TypeVar("_Request")
_FIELD = re.compile(r"\$\.(\w+)")
_MISSING = re.compile(r"field `(\w+)`")


def decode(kind: type[_Request], body: bytes) -> _Request:
    """The request in `body`. Raises ApiError 400 that names the top-level field at fault."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        match = _FIELD.search(str(error)) or _MISSING.search(str(error))
        raise bad_request(str(error), match.group(1) if match else None) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"JSON decode error: {error}", None) from error


# What is answered.


class CachedTokens(Struct, frozen=True):
    cached_tokens: int


class Usage(Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    prompt_tokens_details: CachedTokens


class ReplyMessage(Struct, frozen=True, kw_only=True):
    role: str = "assistant"
    reasoning_content: str | UnsetType = UNSET
    content: str


class TopLogprob(Struct, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob, frozen=True, kw_only=True):
    top_logprobs: list[TopLogprob]


class Logprobs(Struct, frozen=True):
    content: list[TokenLogprob]


class Choice(Struct, frozen=True, kw_only=True):
    index: int
    message: ReplyMessage
    logprobs: Logprobs | None = None
    finish_reason: FinishReason


class Completion(Struct, frozen=True, kw_only=True):
    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Delta(Struct, frozen=True, kw_only=True):
    role: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(Struct, frozen=True, kw_only=True):
    index: int
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None


class Chunk(Struct, frozen=True, kw_only=True):
    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType = UNSET


DONE = b"data: [DONE]\n\n"
_encoder = msgspec.json.Encoder()


def encode(value: object) -> bytes:
    return _encoder.encode(value)


def sse(chunk: Chunk) -> bytes:
    """`chunk` as one server-sent event."""
    return b"data: " + _encoder.encode(chunk) + b"\n\n"
