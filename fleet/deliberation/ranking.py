"""From scores to an order. Ties, and what nobody scored, stand in agent order."""

from collections.abc import Mapping, Sequence


def rank(agents: Sequence[str], scores: Mapping[str, float | None]) -> tuple[str, ...]:
    """Best first; `agents` gives the order among equals. Unscored ones come last."""

    def key(agent_id: str) -> tuple[bool, float]:
        score = scores.get(agent_id)
        return (score is None, -(score or 0.0))

    return tuple(sorted(agents, key=key))
