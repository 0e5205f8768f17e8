"""Classifies finish reasons. A reason that is not in this table does not make a text whole."""

from typing import Literal, cast

Ending = Literal["whole", "length", "filtered", "refused", "aborted", "tool", "none", "unknown"]
"""`none`: no reason came at all. `tool`: the model called a tool that nobody offered."""

_TABLE = """
whole    stop eos eos_token stop_sequence end_turn stop_token stop_str matched_stop end endoftext end_of_text
whole    complete completed finish finished
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


def ending_of(reason: str | None) -> Ending:
    """By the reason as servers spell it, whatever its case."""
    if not reason:
        return "none"
    return _BY_REASON.get(reason.strip().lower().replace("-", "_").replace(" ", "_"), "unknown")


def is_reason(value: object) -> bool:
    """Whether a `finish_reason` is one: some relays write an empty text, or the word null, while a text goes on."""
    return isinstance(value, str) and value.strip().lower() not in ("", "null", "none", "undefined")
