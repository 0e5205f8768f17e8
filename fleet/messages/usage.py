"""Counts tokens and what they cost: of one call, of a deliberation, by model."""

from collections.abc import Iterable, Mapping
from typing import Any

from fleet.messages.base import Message

COST_DIGITS = 9
"""After the point. Sums are rounded to it, so that the order of calls does not show in them."""


class Usage(Message, frozen=True, kw_only=True):
    """Tokens as the model reported them, failed attempts included. Null: it was asked, and did not tell.

    `estimated_tokens`: counted by the fleet for attempts whose server told nothing; not a part of the other numbers.
    """

    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    cached_tokens: int | None = 0
    estimated_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            prompt_tokens=_sum(self.prompt_tokens, other.prompt_tokens),
            completion_tokens=_sum(self.completion_tokens, other.completion_tokens),
            cached_tokens=_sum(self.cached_tokens, other.cached_tokens),
            estimated_tokens=self.estimated_tokens + other.estimated_tokens,
        )

    @property
    def total(self) -> int:
        """Prompt and completion tokens, estimates included: what `options.max_total_tokens` counts."""
        return (self.prompt_tokens or 0) + (self.completion_tokens or 0) + self.estimated_tokens


class TotalUsage(Message, frozen=True, kw_only=True):
    """All calls of a deliberation, as far as model servers told; null where none told. See `Usage`."""

    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    cached_tokens: int | None = 0
    calls: int = 0
    failed_calls: int = 0
    estimated_tokens: int = 0

    @property
    def total(self) -> int:
        """Prompt and completion tokens, estimates included."""
        return (self.prompt_tokens or 0) + (self.completion_tokens or 0) + self.estimated_tokens


class ModelUsage(TotalUsage, frozen=True, kw_only=True):
    """What calls used of one model. `calls`: those that asked it; a call that a fallback answered counts for both.

    `cost`: by the prices of its endpoints; null where one has none, or did not tell its tokens.
    """

    cost: float | None = None

    @property
    def usage(self) -> Usage:
        """Its tokens alone."""
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
            estimated_tokens=self.estimated_tokens,
        )

    def __add__(self, other: "ModelUsage") -> "ModelUsage":
        tokens = self.usage + other.usage
        return ModelUsage(
            prompt_tokens=tokens.prompt_tokens,
            completion_tokens=tokens.completion_tokens,
            cached_tokens=tokens.cached_tokens,
            estimated_tokens=tokens.estimated_tokens,
            calls=self.calls + other.calls,
            failed_calls=self.failed_calls + other.failed_calls,
            cost=total_cost((self.cost, other.cost)),
        )


def merged(one: Mapping[str, ModelUsage], other: Mapping[str, ModelUsage]) -> dict[str, ModelUsage]:
    """Both, model by model, in the order of names."""
    return {
        model: one[model] + other[model] if model in one and model in other else (one.get(model) or other[model])
        for model in sorted({*one, *other})
    }


def total_cost(costs: Iterable[float | None]) -> float | None:
    """Null if one of them is not known."""
    total = 0.0
    for cost in costs:
        if cost is None:
            return None
        total = round(total + cost, COST_DIGITS)
    return total


def usage_of(used: Usage, by_model: Mapping[str, ModelUsage], *, calls: int, failed: int) -> dict[str, Any]:
    """`usage`, `usage_by_model` and `cost` of calls that ended. The cost is null where not all is told by model."""
    usage = TotalUsage(
        prompt_tokens=used.prompt_tokens,
        completion_tokens=used.completion_tokens,
        cached_tokens=used.cached_tokens,
        calls=calls,
        failed_calls=failed,
        estimated_tokens=used.estimated_tokens,
    )
    all_told = bool(by_model) and sum(one.usage.total for one in by_model.values()) == used.total
    cost = total_cost(one.cost for one in by_model.values()) if all_told else None
    return {"usage": usage, "usage_by_model": by_model, "cost": cost}


def _sum(one: int | None, other: int | None) -> int | None:
    """Of what was told; null where nothing was told although something was asked."""
    total = (one or 0) + (other or 0)
    return None if total == 0 and (one is None or other is None) else total
