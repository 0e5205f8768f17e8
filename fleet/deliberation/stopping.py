"""Decides whether another round is worth its calls.

Rounds pay while proposals still move and the verdict is open. So after a round (never before the first one is over) the
deliberation goes to its final scores when, in this order:

* `token_budget`: what is used, one more round and the scoring would pass `options.max_total_tokens`. A round is taken
  to cost what the last one did, the scoring what the last critiques did.
* `deadline`: by the same reckoning in time, and half as long again to be safe, another round and the scoring would end
  after the deadline: a round too few costs a round, a scoring too late the whole verdict.
* `leader_settled`: by the scores in the round's critiques no reviewer put another proposal above the leader, or it led
  by `SETTLED_MARGIN` points or more.
* `no_movement`: every proposal that was to be revised is as good as the same text as before: `similarity` of
  `UNMOVED` or more, a declined revision included.

The budget holds whatever `options.early_stop` says; the other three only where it is true.
"""

from collections import Counter
from itertools import pairwise

from fleet.deliberation.ranking import Standings
from fleet.deliberation.scoring import Score
from fleet.deliberation.state import Candidate, Deliberation
from fleet.messages import StopReason
from fleet.times import from_rfc3339

SETTLED_MARGIN = 2.0
UNMOVED = 0.9
SAFETY = 1.5
"""How much longer than the last round another one may take."""


def similarity(before: str, after: str) -> float:
    """Share (0 … 1) of word pairs that two texts have in common: Dice's coefficient on multisets of adjacent words,
    lower case. Texts of one word are compared by it.
    """
    one, other = _pairs(before), _pairs(after)
    total = one.total() + other.total()
    return round(2 * (one & other).total() / total, 4) if total else 1.0


def _pairs(text: str) -> Counter[tuple[str, ...]]:
    words = text.lower().split()
    return Counter(pairwise(words) if len(words) > 1 else [tuple(words)])


def over_budget(state: Deliberation) -> bool:
    """Whether no further call may begin."""
    budget = state.task.max_total_tokens
    return budget is not None and state.usage.total >= budget


def reason_to_stop(
    state: Deliberation, standings: Standings, scores: list[Score], at_ms: int
) -> tuple[StopReason, str] | None:
    """Why the round that has just ended is the last one, in a word and in a sentence; None: go on. `standings`
    and `scores` are those of its critiques.
    """
    critique, revise = state.record("critique"), state.record("revise")
    if (budget := state.task.max_total_tokens) is not None:
        foreseen = state.usage.total + 2 * critique.tokens + revise.tokens
        if foreseen > budget:
            return "token_budget", (
                f"{state.usage.total} tokens are used, and another round and the scoring would bring them to about "
                f"{foreseen} of {budget}"
            )
    if not state.task.early_stop:
        return None
    critique_ms, round_ms = revise.began_ms - critique.began_ms, at_ms - critique.began_ms
    if at_ms + SAFETY * (round_ms + critique_ms) > from_rfc3339(state.deadline_at):
        return (
            "deadline",
            f"another round and the scoring, of about {(round_ms + critique_ms) / 1000:g} s, would be late",
        )
    if settled := _settled(standings, scores):
        return "leader_settled", settled
    moved = [candidate.similarity[state.round] for candidate in _revised(state)]
    if moved and min(moved) >= UNMOVED:
        return "no_movement", f"every revision shares at least {min(moved):.0%} of its word pairs with the text before"
    return None


def _settled(standings: Standings, scores: list[Score]) -> str | None:
    if not scores:
        return None
    leaders = standings.tied or standings.order[:1]
    by_reviewer: dict[str, dict[str, float]] = {}
    for one in scores:
        by_reviewer.setdefault(one.reviewer, {})[one.author] = one.score
    comparing = [
        cards for cards in by_reviewer.values() if len(cards) > 1 and any(leader in cards for leader in leaders)
    ]
    if len(comparing) > 1 and all(
        max(cards.values()) <= max(cards[leader] for leader in leaders if leader in cards) for cards in comparing
    ):
        if len(leaders) == len(standings.order):
            return "no reviewer put any proposal above another"
        return f"no reviewer put any other proposal above {' and '.join(leaders)}"
    if standings.margin is not None and standings.margin >= SETTLED_MARGIN:
        return f"{leaders[0]} led by {standings.margin:g} points, and a round does not make up {SETTLED_MARGIN:g}"
    return None


def _revised(state: Deliberation) -> list[Candidate]:
    return [candidate for candidate in state.candidates.values() if state.round in candidate.similarity]
