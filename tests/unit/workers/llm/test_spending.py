"""What the attempts of one call used, by model and in money."""

import pytest

from fleet.messages import ModelUsage, Usage
from fleet.model_servers import Price
from workers.llm.spending import Spending, cost

PRICE = Price(input=0.40, cached=0.04, output=1.20)
USED = Usage(prompt_tokens=3000, completion_tokens=1000, cached_tokens=2000)


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        (PRICE, (1000 * 0.40 + 2000 * 0.04 + 1000 * 1.20) / 1e6),
        (Price(input=0.40, output=1.20), (3000 * 0.40 + 1000 * 1.20) / 1e6),  # cached tokens cost as others
        (Price(), 0.0),
        (None, None),
    ],
)
def test_cost_is_by_the_price_per_million_tokens(price: Price | None, expected: float | None) -> None:
    """Tokens from a cache have a price of their own; no price is no cost, and not none."""
    assert cost(USED, price) == (None if expected is None else pytest.approx(expected))


def test_unknown_tokens_have_no_cost() -> None:
    """An estimate is no bill; unknown cached tokens count as others."""
    assert cost(Usage(prompt_tokens=None, completion_tokens=None, estimated_tokens=9), PRICE) is None
    assert cost(Usage(prompt_tokens=1000, completion_tokens=0, cached_tokens=None), PRICE) == 0.0004


def test_attempts_at_one_model_are_one_call() -> None:
    """Each of them is paid."""
    spent = Spending().plus("m", USED, PRICE).plus("m", USED, PRICE)
    assert spent.usage == USED + USED
    assert spent.of_call(failed=False) == {
        "m": ModelUsage(
            prompt_tokens=6000, completion_tokens=2000, cached_tokens=4000, calls=1, cost=round(2 * 0.00168, 9)
        )
    }


def test_a_fallback_is_counted_beside_the_first_model() -> None:
    """One without a price leaves the other's cost as it is; an attempt that never began is none."""
    spent = Spending().plus("m", Usage(), PRICE).plus("m", USED, PRICE).plus("local", USED, None)
    by_model = spent.of_call(failed=True)
    assert {model: (used.calls, used.failed_calls) for model, used in by_model.items()} == {
        "m": (1, 1),
        "local": (1, 1),
    }
    assert (by_model["m"].cost, by_model["local"].cost) == (0.00168, None)
