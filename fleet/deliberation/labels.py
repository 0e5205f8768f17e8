"""Gives proposals letters instead of names, in an order drawn from the seed, differently for each reviewer."""

from collections.abc import Sequence
from random import Random

from fleet.deliberation.state import Deliberation

LABELS = "ABCDEFGHIJKLMNOP"


def label(authors: Sequence[str]) -> dict[str, str]:
    """Label -> author, in the order given."""
    return dict(zip(LABELS, authors, strict=False))


def shuffled_labels(state: Deliberation, reviewer: str, phase: str, round_: int) -> dict[str, str]:
    """Label -> author, for every proposal but the reviewer's own, in an order drawn from the seed."""
    authors = [agent for agent in state.ranked_agents if agent != reviewer]
    Random(f"{state.seed}/{round_}/{phase}/{reviewer}").shuffle(authors)
    return label(authors)


def shown_order(state: Deliberation, phase: str, round_: int, reviewer: str) -> tuple[str, ...]:
    """The authors of the proposals that a reviewer was shown, in their order."""
    return tuple(shuffled_labels(state, reviewer, phase, round_).values())
