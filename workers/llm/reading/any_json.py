"""Reads an event that is no plain chunk: any JSON, in any dialect. Reads what can be read, and no more."""

import json
from typing import Any

from workers.llm.reading.endings import is_reason
from workers.llm.reading.event import Event
from workers.llm.reading.token_counts import counts_of, number_of

_OF_A_CHOICE = frozenset({"delta", "message", "text"})
_WRAPPERS = ("data", "response", "result", "output")
"""Some gateways put the whole completion into an envelope."""
_ERROR_KEYS = ("error", "errors", "detail", "error_message")


def event_of(value: Any) -> Event:
    """Takes whatever JSON it is for an event."""
    if isinstance(value, list):
        return _merged([event_of(item) for item in value if isinstance(item, dict)]) if value else Event(unread=True)
    if not isinstance(value, dict):
        return Event(unread=True)
    event = Event(model=value["model"] if isinstance(value.get("model"), str) else None)
    if (error := _error(value)) is not None:
        event.error = error
        return event
    groq = value.get("x_groq")
    event.counts = counts_of(value.get("usage")) or counts_of(groq.get("usage") if isinstance(groq, dict) else None)
    choices = value.get("choices")
    if isinstance(choices, dict):
        choices = [choices] if choices.keys() & _OF_A_CHOICE else list(choices.values())
    if isinstance(choices, list):
        for choice in choices:
            if isinstance(choice, dict) and number_of(choice.get("index")) in (None, 0):
                _take_choice(event, choice)
            else:
                event.is_of_another = True
        return event
    if isinstance(value.get("type"), str):
        return _messages_api(event, value)
    if isinstance(value.get("message"), dict):  # Ollama's own API
        _take_message(event, value["message"])
        event.finish_reason = value["done_reason"] if is_reason(value.get("done_reason")) else None
        return event
    for key in _WRAPPERS:
        if isinstance(value.get(key), dict) and "choices" in value[key]:
            inner = event_of(value[key])
            inner.counts = inner.counts or event.counts
            return inner
    event.unread = event.counts is None
    return event


def _error(value: dict[str, Any]) -> Any:
    """The error that a body is, if it is one."""
    if _is_told(value.get("error")):
        return value["error"]
    base = value.get("base_resp")  # MiniMax's
    if isinstance(base, dict) and number_of(base.get("status_code")) not in (None, 0):
        return {"message": base.get("status_msg") or str(base)}
    if value.get("object") == "error" or value.get("type") == "error" or value.get("status") == "error":
        return value
    if "choices" in value or "content" in value:
        return None
    for key in _ERROR_KEYS[1:]:
        if value.get(key):
            return {"message": value[key], **{name: value[name] for name in ("code", "status") if name in value}}
    code = number_of(value.get("code") or value.get("status") or value.get("status_code"))
    if isinstance(value.get("message") or value.get("msg"), str) and code is not None and code >= 400:
        return value
    return None


def _is_told(error: Any) -> bool:
    return error not in (None, False, "", {}, []) and str(error).strip().lower() not in ("null", "none")


def _take_choice(event: Event, choice: dict[str, Any]) -> None:
    delta, message = choice.get("delta"), choice.get("message")
    if isinstance(delta, dict):
        _take_message(event, delta)
    elif isinstance(delta, str):
        event.text += delta
    if isinstance(message, dict | str):
        event.message = told = Event()
        _take_message(told, message if isinstance(message, dict) else {"content": message})
    if isinstance(choice.get("text"), str) and not event.text:
        event.text = choice["text"]
    for key in ("finish_reason", "finishReason", "stop_reason"):
        reason = choice.get(key)
        if isinstance(reason, dict):
            reason = reason.get("type", reason.get("reason"))
        if is_reason(reason):
            event.finish_reason = reason
            break
    event.counts = event.counts or counts_of(choice.get("usage"))
    if _is_told(choice.get("error")):
        event.error = choice["error"]


def _take_message(event: Event, message: dict[str, Any]) -> None:
    event.text += _text(message.get("content"), event)
    for key in ("reasoning_content", "reasoning", "thinking"):
        if thought := message.get(key):
            event.thought += _thought(thought)
            break
    if isinstance(message.get("refusal"), str):
        event.refusal += message["refusal"]
    event.tool = event.tool or bool(message.get("tool_calls") or message.get("function_call"))


def _thought(value: Any) -> str:
    """A text, or what holds one."""
    if isinstance(value, list):
        return "".join(map(_thought, value))
    if isinstance(value, dict):
        keys = ("thinking", "text", "reasoning", "content")
        return next((_thought(value[key]) for key in keys if value.get(key)), "")
    return value if isinstance(value, str) else ""


def _text(content: Any, event: Event) -> str:
    """A text, or the texts of a list of parts; parts that are thoughts are told as thoughts. What is no part is an
    answer in JSON that its server has read already.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list | dict) or not content:
        return ""
    if isinstance(content, dict):
        content = [content]
        if not _is_part(content[0]):
            return json.dumps(content[0], ensure_ascii=False)
    elif not any(map(_is_part, content)):
        return json.dumps(content, ensure_ascii=False)
    parts = []
    for part in content:
        if isinstance(part, str):
            parts.append(part)
        elif isinstance(part, dict):
            kind = str(part.get("type", "text"))
            if "think" in kind or "reason" in kind:
                event.thought += _thought(part)
            elif kind == "refusal":
                event.refusal += str(part.get("refusal", ""))
            elif kind == "tool_use":
                event.tool = True
            elif isinstance(part.get("text"), str):
                parts.append(part["text"])
    return "".join(parts)


def _is_part(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("type", value.get("text")), str))


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


def _merged(events: list[Event]) -> Event:
    """Of a body that is a list."""
    if not events:
        return Event(unread=True)
    first = events[0]
    for event in events if len(events) > 1 else []:
        if event.message is not None:
            event.text, event.thought = event.text or event.message.text, event.thought or event.message.thought
            event.message = None
    for event in events[1:]:
        first.text += event.text
        first.thought += event.thought
        first.refusal += event.refusal
        first.finish_reason = event.finish_reason or first.finish_reason
        first.counts = event.counts or first.counts
        first.error = first.error if first.error is not None else event.error
        first.unread = first.unread and event.unread
    return first
