"""Gives proposals letters instead of names, in orders that balance each other.

The orders of a phase are a random Latin square with one's own proposal on the diagonal: each proposal stands once at
each place. So whatever a place does to scores, as long as it does it to all judges alike, it does it to all proposals.
"""

from collections.abc import Sequence
from functools import lru_cache
from random import Random

from fleet.deliberation.state import Deliberation

LABELS = "ABCDEFGHIJKLMNOP"


def label(authors: Sequence[str]) -> dict[str, str]:
    """Label -> author, in the order given."""
    return dict(zip(LABELS, authors, strict=False))


def shuffled_labels(state: Deliberation, reviewer: str, phase: str, round_: int) -> dict[str, str]:
    """Label -> author, for every proposal but the reviewer's own, in the reviewer's order of this phase."""
    return label(shown_order(state, phase, round_, reviewer))


def shown_order(state: Deliberation, phase: str, round_: int, reviewer: str) -> tuple[str, ...]:
    """The authors of the proposals that a reviewer is shown, in their order. The seed decides it."""
    agents = state.ranked_agents
    orders = _orders(f"{state.seed}/{round_}/{phase}", len(agents))
    # The first places of a Latin square are balanced, too.
    most = state.task.judges_per_proposal if phase in ("critique", "score") else None
    return tuple(agents[author] for author in orders[agents.index(reviewer)][:most])


def balanced_orders(seed: str, size: int) -> list[list[int]]:
    """For each of `size` reviewers the numbers of all others, each at each place once.

    Place by place: reviewers and authors who have not met are matched at random. Each has equally many left, so there
    always is such a matching (Hall 1935), and Kuhn's augmenting paths find it.
    """
    random = Random(seed)
    left = [[author for author in range(size) if author != reviewer] for reviewer in range(size)]
    orders: list[list[int]] = [[] for _ in range(size)]
    for _ in range(size - 1):
        for author, reviewer in _matching(left, random).items():
            orders[reviewer].append(author)
            left[reviewer].remove(author)
    return orders


_orders = lru_cache(maxsize=256)(balanced_orders)


def _matching(left: Sequence[Sequence[int]], random: Random) -> dict[int, int]:
    """Author -> reviewer: each reviewer with one of the authors that it has left."""
    matched: dict[int, int] = {}

    def match(reviewer: int, tried: set[int]) -> bool:
        for author in random.sample(left[reviewer], len(left[reviewer])):
            if author not in tried:
                tried.add(author)
                if author not in matched or match(matched[author], tried):
                    matched[author] = reviewer
                    return True
        return False

    for reviewer in random.sample(range(len(left)), len(left)):
        match(reviewer, set())
    return matched
