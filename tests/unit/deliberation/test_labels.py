"""Orders of reviews balance each other."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fleet.deliberation.labels import balanced_orders
from tests.support.council import completed


@given(st.integers(1, 16), st.text(max_size=8))
def test_each_proposal_stands_once_at_each_place(size: int, seed: str) -> None:
    """And every reviewer sees all but its own."""
    orders = balanced_orders(seed, size)
    for reviewer, order in enumerate(orders):
        assert sorted([reviewer, *order]) == list(range(size))
    for place in range(size - 1):
        assert sorted(order[place] for order in orders) == list(range(size))


def test_neighbours_vary() -> None:
    """What stands before a proposal is not always the same, as it would be if every reviewer read on from its seat."""
    before: Counter[int] = Counter()
    for seed in range(50):
        for order in balanced_orders(str(seed), 6):
            if 0 in order[1:]:
                before[order[order.index(0) - 1]] += 1
    assert set(before) == {1, 2, 3, 4, 5}
    assert max(before.values()) < 2 * min(before.values())


def test_orders_and_criteria_of_a_phase_are_balanced() -> None:
    """In critiques and scores each proposal stands once at each place; criteria come first in turn."""
    _, asked = completed(num_agents=5, rounds=1, seed=3)
    for phase in ("critique", "score"):
        calls = [call for call in asked if call.phase == phase]
        for place in range(4):
            assert len({list(call.labels.values())[place] for call in calls}) == 5
        for call in calls:
            assert call.answer_schema is not None
            cards = [card["properties"] for card in call.answer_schema["properties"].values()]
            orders = [list(card["scores"]["properties"] if phase == "critique" else card) for card in cards]
            assert [order[0] for order in orders] == ["correctness", "completeness", "clarity", "correctness"]
            assert all(sorted(order) == sorted(orders[0]) for order in orders)
