"""Classifies finish reasons. A reason that is not known does not make a text whole."""

import re
from functools import lru_cache
from typing import Literal, cast

Ending = Literal["whole", "length", "filtered", "refused", "aborted", "tool", "none", "unknown"]
"""`none`: no reason came at all. `tool`: the model called a tool that nobody offered."""

_TABLE = """
whole    stop eos eos_token stop_sequence end_turn stop_token stop_str matched_stop end endoftext end_of_text
whole    complete completed finish finished normal end_of_turn end_of_sequence end_of_message
length   length max_tokens max_output_tokens model_length max_length max_new_tokens context_length limit truncated
length   incomplete model_context_window_exceeded pause_turn
filtered content_filter content_filtered safety recitation blocklist prohibited_content spii sensitive language
filtered guardrail_intervened image_safety error_toxic
refused  refusal refused
aborted  abort aborted cancel cancelled canceled error failed failure timeout shutdown repetition load unload other
aborted  insufficient_system_resource network_error user_cancel malformed_function_call error_limit
tool     tool_calls tool_call tool_use function_call tool
"""
"""As OpenAI, vLLM, SGLang, llama.cpp, Ollama, TGI, Anthropic, Gemini, Cohere, Mistral, DeepSeek, Bedrock and relays in
front of them spell it.
"""
_BY_REASON: dict[str, Ending] = {
    reason: cast(Ending, ending) for ending, *reasons in map(str.split, _TABLE.split("\n")[1:-1]) for reason in reasons
}

_BY_WORDS: tuple[tuple[re.Pattern[str], Ending], ...] = (
    (re.compile("filter|safety|moderat|block|risk|sensitive|prohibit|policy"), "filtered"),
    (re.compile("refus"), "refused"),
    (re.compile("abort|cancel|error|fail|time|interrupt|shut_?down|kill|disconnect"), "aborted"),
    (re.compile("length|max(?:imum)?_|limit|truncat|budget"), "length"),
    (re.compile("tool|function"), "tool"),
    (re.compile(r"(?:stop|eos)_(?:sequence|token|string|word|criteria)\w*|eos_\w+"), "whole"),
)
"""For a reason that no table has: what its words say. None of them makes a text whole by a part of a word."""
_GOES_ON = frozenset(
    {"null", "none", "undefined", "not_finished", "unfinished", "in_progress", "continue", "streaming", "generating"}
)


@lru_cache(maxsize=256)
def ending_of(reason: str | None) -> Ending:
    """By the reason as servers spell it: `max-tokens`, `endTurn`, `FinishReason.SAFETY`, `content_filter: X`."""
    if not reason:
        return "none"
    name = _plain(reason)
    if found := _BY_REASON.get(name) or _BY_REASON.get(_plain(reason.partition(":")[0])):
        return found
    for words, ending in _BY_WORDS:
        if words.fullmatch(name) if ending == "whole" else words.search(name):
            return ending
    return "unknown"


def _plain(reason: str) -> str:
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", reason.strip())
    return re.sub(r"[\W_]+", "_", snake).lower().removeprefix("finish_reason_").strip("_")


def is_reason(value: object) -> bool:
    """Whether a `finish_reason` is one: some relays write an empty text, or the word null, while a text goes on."""
    return isinstance(value, str) and _plain(value) not in _GOES_ON and bool(value.strip())


def later(first: str | None, second: str | None) -> str | None:
    """Of two reasons that one answer was given. A relay may say `stop` behind a `length`: that makes nothing whole."""
    if first is None or second is None:
        return second or first
    cut = ending_of(first) not in ("whole", "unknown") and ending_of(second) == "whole"
    return first if cut else second
