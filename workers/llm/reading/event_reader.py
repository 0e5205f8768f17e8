"""Reads an event, or a whole body, of a completion, in any dialect. Reads what can be read, and no more.

Two readers: `_fast` for the chunks of a well-formed stream, which are nearly all there are, and `any_json` for
everything else. What neither understands adds nothing, and is told as `unread`.
"""

import json
import re
from typing import Any

import msgspec
from msgspec import Struct

from workers.llm.reading.any_json import event_of
from workers.llm.reading.endings import is_reason
from workers.llm.reading.event import Event
from workers.llm.reading.halves import without_halves
from workers.llm.reading.token_counts import TokenCounts, number_of

_TEXT = re.compile(r'"(?:content|text)"\s*:\s*"[^"]')


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
    logprobs: Any = None
    message: Any = None
    text: Any = None
    error: Any = None
    usage: Any = None
    stop_reason: Any = None
    finishReason: Any = None
    """As relays of Gemini spell it."""

    @property
    def is_plain(self) -> bool:
        """Nothing in it is told in another place than OpenAI's."""
        others = (self.message, self.text, self.error, self.usage, self.finishReason)
        if any(other is not None for other in others):
            return False
        return self.stop_reason is None or self.finish_reason is not None


class _Chunk(Struct):
    choices: list[_Choice]
    model: str | None = None
    usage: _Usage | None = None
    error: Any = None
    object: str | None = None
    x_groq: Any = None


MOST_LINES = 10_000
"""In what is no event, that are read one by one."""
_chunks = msgspec.json.Decoder(_Chunk)


def read(data: str) -> Event:
    """One event of a stream, or a body."""
    try:
        chunk = _chunks.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _read_loosely(data)
    if chunk.error is not None or chunk.object == "error" or (chunk.x_groq is not None and chunk.usage is None):
        return _read_loosely(data)
    return _fast(chunk, data)


def _fast(chunk: _Chunk, data: str) -> Event:
    event = Event(model=chunk.model)
    if (usage := chunk.usage) is not None:
        prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
        event.counts = TokenCounts(
            prompt=number_of(usage.prompt_tokens),
            completion=number_of(usage.completion_tokens),
            cached=number_of(prompt.cached_tokens) if prompt else None,
            reasoning=number_of(completion.reasoning_tokens) if completion else None,
        )
    for choice in chunk.choices:
        if choice.index != 0:
            continue
        if not choice.is_plain:
            return _read_loosely(data)
        if is_reason(choice.finish_reason):
            event.finish_reason = choice.finish_reason
        event.logprobs = choice.logprobs
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
        event = event_of(value)
        for told in (event, event.message or event):
            told.model, told.finish_reason = without_halves(told.model), without_halves(told.finish_reason)
            told.refusal, told.error = without_halves(told.refusal), without_halves(told.error)
    except (ValueError, RecursionError):
        return Event(unread=True, broken=True)
    # What was not understood must not be lost in silence: a text without one of its pieces looks like a whole one.
    event.unread = event.unread or (event.adds_nothing and not event.is_of_another and bool(_TEXT.search(data)))
    return event


def read_many(data: str) -> list[Event]:
    """As `read`; several events in one, parted by line ends, are read one by one."""
    event = read(data)
    if not event.unread or "\n" not in data.strip() or data.count("\n") > MOST_LINES:
        return [event]
    lines = [line.strip().removeprefix("data:").strip() for line in data.splitlines() if line.strip()]
    events = [read(line) for line in lines if line != "[DONE]"]
    return [event] if all(each.unread for each in events) else events
