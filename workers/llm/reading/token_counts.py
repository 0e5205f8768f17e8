"""Reads how many tokens a server says that a call took, in whatever form it says so."""

from typing import Any

from msgspec import Struct

MOST = 10**9
"""No call takes so many."""


class TokenCounts(Struct, frozen=True, kw_only=True):
    """As far as a server tells them: None is not zero."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None
    reasoning: int | None = None

    def updated(self, new: "TokenCounts") -> "TokenCounts":
        """What is told later counts; what is told no more stays."""
        return TokenCounts(
            prompt=self.prompt if new.prompt is None else new.prompt,
            completion=self.completion if new.completion is None else new.completion,
            cached=self.cached if new.cached is None else new.cached,
            reasoning=self.reasoning if new.reasoning is None else new.reasoning,
        )

    def sane(self, *, has_text: bool) -> "TokenCounts":
        """Zero tokens of what was there were not counted. What was cached is a part of the prompt."""
        prompt = self.prompt or None
        if prompt is not None and self.cached is not None and self.cached > prompt:
            prompt += self.cached
        completion = None if has_text and not self.completion else self.completion
        return TokenCounts(prompt=prompt, completion=completion, cached=self.cached, reasoning=self.reasoning)


def counts_of(usage: Any) -> TokenCounts | None:
    """What a server tells of tokens, in numbers of any spelling; None where it tells nothing that can be."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = number_of(usage.get("prompt_tokens")), number_of(usage.get("completion_tokens"))
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens")
    if cached is None:
        cached = number_of(usage.get("prompt_cache_hit_tokens"))
    if "input_tokens" in usage or "output_tokens" in usage:  # Anthropic: what is cached is not in `input_tokens`
        read, written = (number_of(usage.get(f"cache_{verb}_input_tokens")) for verb in ("read", "creation"))
        fresh = number_of(usage.get("input_tokens"))
        prompt = None if fresh is None else fresh + (read or 0) + (written or 0)
        completion, cached = number_of(usage.get("output_tokens")), read
    reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens")
    if prompt is None and completion is None:
        return None
    return TokenCounts(prompt=prompt, completion=completion, cached=cached, reasoning=reasoning)


def _detail(usage: dict[str, Any], group: str, name: str) -> int | None:
    details = usage.get(group)
    return number_of(details.get(name)) if isinstance(details, dict) else None


def number_of(value: Any) -> int | None:
    """A count, from `12`, `12.0` or `"12"`; None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if 0 <= number <= MOST and number == int(number) else None
