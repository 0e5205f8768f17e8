"""Classifies what a server answers instead of an answer: a status, an error object, a web page.

No two servers, and no two proxies, say it alike: where a status does not tell, its text does.
"""

import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from fleet.messages import ErrorType
from workers.llm.failures import AttemptError, Fault, shorten
from workers.llm.retry_after import asked_wait_s

_NAMES: dict[int, tuple[ErrorType, Fault]] = {
    400: ("BadRequest", "endpoint"),
    401: ("Unauthorized", "endpoint"),
    402: ("Unauthorized", "endpoint"),
    403: ("Unauthorized", "endpoint"),
    404: ("NotFound", "endpoint"),
    405: ("NotFound", "endpoint"),
    408: ("Timeout", "server"),
    410: ("NotFound", "endpoint"),
    413: ("RequestTooLarge", "endpoint"),
    422: ("BadRequest", "endpoint"),
    424: ("ServerError", "server"),
    425: ("TooEarly", "busy"),
    429: ("RateLimited", "busy"),
    501: ("UnexpectedStatus", "endpoint"),
    505: ("UnexpectedStatus", "endpoint"),
    529: ("ServerError", "busy"),
}
_NOT_BEGUN = frozenset({425, 429, 502, 503, 521, 522, 523, 529, 530})
"""Statuses of a server that has not asked the model yet; 52x and 530: Cloudflare's, of a server that is away."""
_BY_TYPE = (
    (r"authentication|invalid_api_key|unauthorized|permission|forbidden", 401),
    (r"not_?found|unknown_model|model_not", 404),
    (r"rate_?limit|too_many_requests|throttl", 429),
    (r"overloaded|unavailable", 529),
    (r"request_too_large", 413),
    (r"invalid|bad_?request|validation|exceed_context", 400),
    (r"timeout", 408),
)
"""Statuses by an error's `type` or text code, where no number tells."""
_OVERFLOW = re.compile(
    r"maximum context length|context_length_exceeded|exceed_context_size|exceeds the available context"
    r"|longer than the maximum (?:model|context) length|(?:prompt|input|request) is too (?:long|large)|prompt too long"
    r"|`?max_new_tokens`? must be|exceeds? the maximum (?:allowed |number of |input |sequence |context |model )"
    r"|context (?:window|limit|size|length)|reduce the (?:length|number|prompt|input)|string_above_max_length"
    r"|too many (?:input )?tokens|exceeds? (?:the )?max(?:imum)?[_ ](?:model|seq|context|input|prompt)"
    r"|input length .{0,40}exceed|maximum (?:input|sequence|prompt) length|range of input length"
    r"|exceed\w* .{0,40}(?:token limit|max(?:imum)? length|sequence length)|tokens? (?:is |are )?too (?:long|many)\b"
    r"|(?:longer|larger|greater) than .{0,40}(?:context|window|position embeddings)|must have less than \d+ tokens"
    r"|上下文.{0,12}(?:长度|窗口|限制)|超[过出].{0,16}(?:长度|上下文|token)|(?:输入|提示词?|prompt).{0,8}(?:过长|超长)"
    r"|コンテキスト(?:長|ウィンドウ)|컨텍스트 (?:길이|창)",
    re.IGNORECASE,
)
_NO_OVERFLOW = re.compile(r"per (?:min|hour|day)|\b[rt]p[md]\b|quota|\brate", re.IGNORECASE)
_WINDOWS = (
    r"(?<![-=])> ?(\d{3,8})",
    r"(?:(?:maximum|max) (?:context |model |prompt |input |sequence )?length|context (?:window|limit|size|length)"
    r"|maximum allowed length|tokens allowed|max_model_len|\"?n_ctx\"?|token limit|sequence length"
    r"|position embeddings|while limit is)\D{0,20}?(\d{3,8})",
    r"(?:must be|total) ?<=? ?(\d{3,8})",
    r"length should be \[\d+, ?(\d{3,8})\]|less than (\d{3,8}) tokens",
)
_PROMPTS = (
    r"(\d+) (?:input|prompt) tokens|(\d+) (?:tokens )?(?:of|from|in) (?:the )?(?:text )?(?:input|prompt|messages)",
    r"\((\d+) in the messages",
    r"prompt contains (?:at least )?(\d+)",
    r"(?:request|input length|prompt|input token count|length|given:?) ?\(?(\d+) ?(?:`?inputs?`? )?(?:tokens|\))",
    r"\"n_prompt_tokens\": ?(\d+)",
    r"prompt is too long: (\d+)",
    r"context limit: (\d+)",
    r"given: (\d+)",
)
_FULL = re.compile(
    r"overload|queue|too many|capacity|busy|loading|starting|warming|no available|try again later|rate limit",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"invalid model name|no such model|unknown model|model_not_found"
    r"|model .{0,120}(?:does not exist|not found|not loaded)",
    re.IGNORECASE,
)
_UPSTREAM_AWAY = re.compile(
    r"connection error|connection refused|cannot connect|connect call failed|no healthy upstream"
    r"|upstream connect error",
    re.IGNORECASE,
)
"""A proxy's words for a server behind it that is not there: the model has not begun."""
_LOADING = re.compile(r"load(?:ing)? (?:the )?model|model .{0,60}\bloading|warming up|starting up", re.IGNORECASE)
_FAILED = re.compile(r"fail|error loading|cannot|can't|could not|unable", re.IGNORECASE)
_TOO_FAST = re.compile(r"rate[ _-]?limit|too ?many ?requests|throttl|slow[ _]?down", re.IGNORECASE)
_FILTERED = re.compile(
    r"content[ _-]?(?:management[ _])?(?:filter|policy)|contentpolicy|responsibleai|data_?inspection|safety system"
    r"|(?:inappropriate|prohibited|unsafe|harmful) content|content exists risk|high risk|moderation|guardrail|flagged"
    r"|敏感|违规|不合规",
    re.IGNORECASE,
)
"""A filter's words for a prompt that it does not let through."""
_QUOTA = re.compile(r"insufficient_quota|insufficient[ _]balance|billing|exceeded your current quota|budget", re.I)
_MONEY = re.compile(r"insufficient[ _](?:balance|quota|funds|credits?)|billing", re.IGNORECASE)
_NO_KEY = re.compile(
    r"(?:invalid|incorrect|missing|wrong|unknown|expired|no) api[ _-]?key|unauthori[sz]ed|login fail"
    r"|api[ _-]?key (?:is |was |has )?(?:not (?:valid|found)|invalid|incorrect|expired|missing|required)"
    r"|no_db_connection",
    re.IGNORECASE,
)
"""The last one: a LiteLLM without a database, which would look up there whatever is not its one key."""
_CODE_KEYS = ("code", "type", "error_type", "__type", "status", "reason", "param")
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)


def of_status(
    status: int, body: str, retry_after_s: float | None = None, location: str | None = None, *, told_as: str = ""
) -> AttemptError:
    """A response that is not 200, or an error in the midst of one that was."""
    message, named = message_of(body), told_in(body)
    shown = f"HTTP {status}: {shorten(message)}" if message else f"HTTP {status}"
    text = told_as + shown if told_as else shown
    if 300 <= status < 400:
        text += f", which redirects to {location}: give that URL" if location else ""
        return AttemptError("UnexpectedStatus", text, fault="endpoint", begun=False)
    if status in (400, 413, 422, 500) and _OVERFLOW.search(named) and not _NO_OVERFLOW.search(message):
        return _overflow(text, body)
    if status in (400, 422) and _NO_MODEL.search(message):
        status = 404
    if status in (400, 403) and _TOO_FAST.search(message) and not _QUOTA.search(message):
        status = 429
    if status in (400, 422) and _NO_KEY.search(named):
        status = 401
    if status == 500 and _LOADING.search(message) and not _FAILED.search(message):
        status = 503
    if status in (400, 403, 422, 451) and _FILTERED.search(named):
        return AttemptError("ContentFiltered", text, fault="endpoint", begun=False)
    name, fault = _NAMES.get(status) or (
        ("ServerError", "server") if status >= 500 else ("UnexpectedStatus", "endpoint")
    )
    if status == 503 and (_FULL.search(body) or retry_after_s is not None):
        fault = "busy"
    if status == 429 and _QUOTA.search(body) and not re.search(r"per minute|try again in", body, re.IGNORECASE):
        fault = "endpoint"  # Money does not come back within a deadline.
    begun = status not in _NOT_BEGUN and fault != "endpoint" and not (status == 500 and _UPSTREAM_AWAY.search(message))
    error = AttemptError(name, text, fault=fault, begun=begun, retry_after_s=retry_after_s)
    error.body = body
    return error


def _overflow(text: str, body: str) -> AttemptError:
    error = AttemptError("ContextOverflow", text, fault="endpoint", begun=False)
    error.window = _number(_WINDOWS, body)
    error.prompt_tokens = _number(_PROMPTS, body)
    return error


def _number(patterns: tuple[str, ...], text: str) -> int | None:
    for pattern in patterns:
        if match := re.search(pattern, text, re.IGNORECASE):
            return int(next(group for group in match.groups() if group))
    return None


def of_error_object(error: Any, status: int = 200) -> AttemptError:
    """An error in a body or stream whose status was 200, however it is wrapped."""
    body = msgspec.json.encode({"error": error}).decode()
    inner = of_status(_status_in(error) or _status_by_words(message_of(body)), body)
    where = "in the stream: " if status == 200 else ""
    plain = AttemptError(
        inner.error_type,
        where + inner.error,
        fault=inner.fault,
        begun=inner.begun,
        retry_after_s=asked_wait_s({}, body, datetime.now(UTC)) if inner.fault == "busy" else None,
        retryable=inner.retryable,
    )
    plain.window, plain.prompt_tokens, plain.body = inner.window, inner.prompt_tokens, body
    return plain


def _status_in(error: Any) -> int | None:
    """The HTTP status that an error object names by number, by text, or by its type."""
    if isinstance(error, list) and error:
        return _status_in(error[0])
    if not isinstance(error, dict):
        return None
    named = [error.get(key) for key in ("code", "status_code", "http_status", "status", "type", "error_type")]
    for value in named:
        if isinstance(value, bool) or value is None:
            continue
        if str(value).strip().isdigit() and 400 <= int(str(value)) <= 599:
            return int(str(value))
    for value in named:
        if isinstance(value, str):
            for pattern, status in _BY_TYPE:
                if re.search(pattern, value, re.IGNORECASE):
                    return status
    inner = error.get("error") or error.get("detail")
    if isinstance(inner, str):
        return None
    return _status_in(inner)


def _status_by_words(said: str) -> int:
    """For an error that no number tells."""
    for words, status in ((_TOO_FAST, 429), (_MONEY, 402), (_NO_KEY, 401)):
        if words.search(said):
            return status
    return 500


def status_within(status: int, body: str) -> int:
    """The status that counts: a proxy may answer 500 and name the status that it was given itself."""
    if status != 500:
        return status
    try:
        inner = _status_in(msgspec.json.decode(body))
    except (msgspec.MsgspecError, RecursionError):
        return status
    return inner if inner is not None and (inner < 500 or inner in (503, 529)) and inner != 408 else status


def of_page(body: str) -> AttemptError:
    """A page for people in place of an answer."""
    match = _TITLE.search(body)
    what = f"a web page, “{shorten(match[1])}”" if match else shorten(body)
    return AttemptError("MalformedResponse", f"no completion but {what}", fault="endpoint", begun=False)


def is_page(body: str) -> bool:
    return body.lstrip()[:15].lower().startswith(("<!doctype", "<html", "<head", "<body"))


_SPOKEN = ("error", "message", "detail", "msg", "error_message", "reason", "description", "title", "errors")


def told_in(body: str) -> str:
    """The message and the codes beside it, but nothing that a server repeats of the request."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return message_of(body)
    return " ".join([message_of(body), *_codes(value)])


def _codes(value: Any, depth: int = 4) -> list[str]:
    if isinstance(value, list) and value:
        return _codes(value[0], depth)
    if not isinstance(value, dict) or depth == 0:
        return []
    found = [value[key] for key in _CODE_KEYS if isinstance(value.get(key), str) and len(value[key]) <= 80]
    inner = [value[key] for key in (*_SPOKEN, "innererror") if isinstance(value.get(key), dict | list)]
    return [*found, *(code for each in inner for code in _codes(each, depth - 1))]


def message_of(body: str) -> str:
    """The message in an error body: OpenAI's, vLLM's, llama.cpp's, FastAPI's or a proxy's."""
    try:
        inner = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        match = _TITLE.search(body) if is_page(body) else None
        return match[1] if match else body
    for _ in range(5):
        if isinstance(inner, list) and inner:
            inner = inner[0]
        elif isinstance(inner, dict):
            place = inner.get("loc")
            inner = next((inner[key] for key in _SPOKEN if inner.get(key)), body)
            if isinstance(place, list) and isinstance(inner, str):
                inner = f"{'.'.join(str(step) for step in place)}: {inner}"
        else:
            break
    return inner if isinstance(inner, str) else body
