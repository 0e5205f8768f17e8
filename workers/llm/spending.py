"""Adds up what the attempts of one call used: in all, by model, and in money."""

from msgspec import Struct, structs

from fleet.messages import ModelUsage, Usage
from fleet.messages.usage import COST_DIGITS
from fleet.model_servers import Price

PRICED_TOKENS = 1_000_000
"""Prices are per this many."""


class Spending(Struct, frozen=True):
    """What a call has used so far."""

    usage: Usage = Usage()
    by_model: dict[str, ModelUsage] = {}

    def plus(self, model: str, usage: Usage, price: Price | None) -> "Spending":
        """One more attempt. One that never reached a model used nothing of it."""
        if usage == Usage():
            return self
        used = ModelUsage(**structs.asdict(usage), cost=cost(usage, price))
        if (before := self.by_model.get(model)) is not None:
            used += before
        return Spending(self.usage + usage, {**self.by_model, model: used.change(calls=1)})

    def of_call(self, *, failed: bool) -> dict[str, ModelUsage]:
        """By model, once the call has ended."""
        return {model: used.change(failed_calls=int(failed)) for model, used in self.by_model.items()}


def cost(usage: Usage, price: Price | None) -> float | None:
    """None where there is no price, or the server did not tell its tokens."""
    if price is None or usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    cached = min(usage.cached_tokens or 0, usage.prompt_tokens)
    cached_price = price.input if price.cached is None else price.cached
    millionths = (
        (usage.prompt_tokens - cached) * price.input + cached * cached_price + usage.completion_tokens * price.output
    )
    return round(millionths / PRICED_TOKENS, COST_DIGITS)
