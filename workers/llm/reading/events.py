"""What an event, or a whole body, of a completion says, in any dialect. Reads what can be read, and no more.

Two readers: `_fast` for the chunks of a well-formed stream, which are nearly all there are, and `_loose` for
everything else. What neither understands adds nothing, and is told as `unread`.
"""

import json
from typing import Any

import msgspec
from msgspec import Struct

from workers.llm.reading.endings import is_reason

_ERROR_KEYS = ("error", "errors", "detail", "error_message")


class TokenCounts(Struct, frozen=True, kw_only=True):
    """As far as a server tells them: None is not zero."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None
    reasoning: int | None = None


class Event(Struct, kw_only=True):
    """What one event adds to an answer. `error`: an error object as it was sent. `unread`: nothing was understood."""

    text: str = ""
    thought: str = ""
    refusal: str = ""
    finish_reason: str | None = None
    counts: TokenCounts | None = None
    model: str | None = None
    error: Any = None
    tool: bool = False
    unread: bool = False
    broken: bool = False
    """It is not even JSON."""


class _Details(Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Delta(Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    thinking: str | None = None
    tool_calls: Any = None


class _Choice(Struct):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None
    message: Any = None
    text: Any = None


class _Chunk(Struct):
    choices: list[_Choice]
    model: str | None = None
    usage: _Usage | None = None
    error: Any = None
    object: str | None = None


_chunks = msgspec.json.Decoder(_Chunk)


def read(data: str) -> Event:
    """One event of a stream, or a body."""
    try:
        chunk = _chunks.decode(data)
    except (msgspec.MsgspecError, UnicodeError):
        return _read_loosely(data)
    if chunk.error is not None or chunk.object == "error":
        return _read_loosely(data)
    return _fast(chunk, data)


def _fast(chunk: _Chunk, data: str) -> Event:
    event = Event(model=chunk.model)
    if (usage := chunk.usage) is not None:
        prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
        event.counts = TokenCounts(
            prompt=usage.prompt_tokens,
            completion=usage.completion_tokens,
            cached=prompt.cached_tokens if prompt else None,
            reasoning=completion.reasoning_tokens if completion else None,
        )
    for choice in chunk.choices:
        if choice.index != 0:
            continue
        if choice.message is not None or choice.text is not None:
            return _read_loosely(data)
        if is_reason(choice.finish_reason):
            event.finish_reason = choice.finish_reason
        if (delta := choice.delta) is not None:
            event.text += delta.content or ""
            event.thought += delta.reasoning_content or delta.reasoning or delta.thinking or ""
            event.refusal += delta.refusal or ""
            event.tool = event.tool or bool(delta.tool_calls)
    return event


def _read_loosely(data: str) -> Event:
    if not data.strip():
        return Event()
    try:
        value = json.loads(data, strict=False)  # takes halves of surrogate pairs, and raw line breaks in strings
    except (ValueError, RecursionError):
        return Event(unread=True, broken=True)
    return _loose(value)


def read_many(data: str) -> list[Event]:
    """As `read`; several events in one, parted by line ends, are read one by one."""
    event = read(data)
    if not event.unread or "\n" not in data.strip():
        return [event]
    lines = [line.strip().removeprefix("data:").strip() for line in data.splitlines() if line.strip()]
    events = [read(line) for line in lines if line != "[DONE]"]
    return [event] if all(each.unread for each in events) else events


def _loose(value: Any) -> Event:
    """Whatever JSON it is."""
    if isinstance(value, list):
        return _merged([_loose(item) for item in value if isinstance(item, dict)]) if value else Event(unread=True)
    if not isinstance(value, dict):
        return Event(unread=True)
    event = Event(model=value["model"] if isinstance(value.get("model"), str) else None)
    if (error := _error(value)) is not None:
        event.error = error
        return event
    event.counts = counts_of(value.get("usage"))
    choices = value.get("choices")
    if isinstance(choices, dict):
        choices = list(choices.values())
    if isinstance(choices, list):
        for choice in choices:
            if isinstance(choice, dict) and _number(choice.get("index")) in (None, 0):
                _take_choice(event, choice)
        return event
    if isinstance(value.get("type"), str):
        return _messages_api(event, value)
    if isinstance(value.get("message"), dict):  # Ollama's own API
        _take_message(event, value["message"])
        event.finish_reason = value["done_reason"] if is_reason(value.get("done_reason")) else None
        return event
    event.unread = event.counts is None
    return event


def _error(value: dict[str, Any]) -> Any:
    """The error that a body is, if it is one."""
    if value.get("error") is not None and value["error"] not in (False, "", {}, []):
        return value["error"]
    if value.get("object") == "error" or value.get("type") == "error" or value.get("status") == "error":
        return value
    if "choices" in value or "content" in value:
        return None
    for key in _ERROR_KEYS[1:]:
        if value.get(key):
            return {"message": value[key], **{name: value[name] for name in ("code", "status") if name in value}}
    code = _number(value.get("code") or value.get("status") or value.get("status_code"))
    if isinstance(value.get("message") or value.get("msg"), str) and code is not None and code >= 400:
        return value
    return None


def _take_choice(event: Event, choice: dict[str, Any]) -> None:
    for key in ("delta", "message"):
        if isinstance(choice.get(key), dict):
            _take_message(event, choice[key])
        elif isinstance(choice.get(key), str):
            event.text += choice[key]
    if isinstance(choice.get("text"), str):
        event.text += choice["text"]
    reason = choice.get("finish_reason", choice.get("stop_reason"))
    if is_reason(reason):
        event.finish_reason = reason
    if isinstance(choice.get("error"), dict):
        event.error = choice["error"]


def _take_message(event: Event, message: dict[str, Any]) -> None:
    event.text += _text(message.get("content"), event)
    for key in ("reasoning_content", "reasoning", "thinking"):
        if thought := message.get(key):
            event.thought += thought if isinstance(thought, str) else _text(thought, event)
            break
    if isinstance(message.get("refusal"), str):
        event.refusal += message["refusal"]
    event.tool = event.tool or bool(message.get("tool_calls") or message.get("function_call"))


def _text(content: Any, event: Event) -> str:
    """A text, or the texts of a list of parts; parts that are thoughts are told as thoughts."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return ""
    parts = []
    for part in content:
        if isinstance(part, str):
            parts.append(part)
        elif isinstance(part, dict):
            kind = str(part.get("type", "text"))
            if "think" in kind or "reason" in kind:
                inner = part.get("thinking", part.get("text", part.get("reasoning", "")))
                event.thought += inner if isinstance(inner, str) else _text(inner, event)
            elif kind == "refusal":
                event.refusal += str(part.get("refusal", ""))
            elif kind == "tool_use":
                event.tool = True
            elif isinstance(part.get("text"), str):
                parts.append(part["text"])
    return "".join(parts)


def _messages_api(event: Event, value: dict[str, Any]) -> Event:
    """Anthropic's `/v1/messages`: events by type, or one message."""
    match value["type"]:
        case "message":
            event.text = _text(value.get("content"), event)
            event.finish_reason = value["stop_reason"] if is_reason(value.get("stop_reason")) else None
        case "message_start" if isinstance(value.get("message"), dict):
            message = value["message"]
            event.model = message["model"] if isinstance(message.get("model"), str) else None
            event.counts = counts_of(message.get("usage"))
        case "content_block_start" if isinstance(value.get("content_block"), dict):
            event.text = _text([value["content_block"]], event)
        case "content_block_delta" if isinstance(value.get("delta"), dict):
            delta = value["delta"]
            if delta.get("type") == "thinking_delta":
                event.thought = str(delta.get("thinking", ""))
            elif isinstance(delta.get("text"), str):
                event.text = delta["text"]
        case "message_delta":
            delta = value.get("delta")
            if isinstance(delta, dict) and is_reason(delta.get("stop_reason")):
                event.finish_reason = delta["stop_reason"]
        case "ping" | "message_stop" | "content_block_stop" | "message_start" | "content_block_start":
            pass
        case _:
            event.unread = event.counts is None
    return event


def counts_of(usage: Any) -> TokenCounts | None:
    """What a server tells of tokens, in numbers of any spelling; None where it tells nothing."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = _number(usage.get("prompt_tokens")), _number(usage.get("completion_tokens"))
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens")
    if cached is None:
        cached = _number(usage.get("prompt_cache_hit_tokens"))
    if "input_tokens" in usage or "output_tokens" in usage:  # Anthropic: what is cached is not in `input_tokens`
        read, written = (_number(usage.get(f"cache_{verb}_input_tokens")) for verb in ("read", "creation"))
        fresh = _number(usage.get("input_tokens"))
        prompt = None if fresh is None else fresh + (read or 0) + (written or 0)
        completion, cached = _number(usage.get("output_tokens")), read
    reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens")
    if prompt is None and completion is None:
        return None
    return TokenCounts(prompt=prompt, completion=completion, cached=cached, reasoning=reasoning)


def _detail(usage: dict[str, Any], group: str, name: str) -> int | None:
    details = usage.get(group)
    return _number(details.get(name)) if isinstance(details, dict) else None


def _number(value: Any) -> int | None:
    """A count, from `12`, `12.0` or `"12"`; None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number >= 0 and number == int(number) else None


def _merged(events: list[Event]) -> Event:
    """Of a body that is a list."""
    if not events:
        return Event(unread=True)
    first = events[0]
    for event in events[1:]:
        first.text += event.text
        first.thought += event.thought
        first.refusal += event.refusal
        first.finish_reason = event.finish_reason or first.finish_reason
        first.counts = event.counts or first.counts
        first.error = first.error if first.error is not None else event.error
        first.unread = first.unread and event.unread
    return first
