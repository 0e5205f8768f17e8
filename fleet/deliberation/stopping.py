"""Decides whether another round is worth its calls.

Rounds pay while proposals still move and the verdict is open. So after a round (never before the first one is over) the
deliberation goes to its final scores when, in this order:

* `token_budget`: what is used, one more round and the scoring would pass `options.max_total_tokens`. A round is taken
  to cost what the last one did, the scoring what the last critiques did.
* `deadline`: by the same reckoning in time, and half as long again to be safe, another round and the scoring would end
  after the deadline: a round too few costs a round, a scoring too late the whole verdict.
* `leader_settled`: by the scores in the round's critiques the leader is the best with a probability of `SETTLED`.
* `no_movement`: every proposal that was to be revised is as good as the same text as before: `similarity` of
  `UNMOVED` or more, a declined revision included.

The budget holds whatever `options.early_stop` says; the other three only where it is true.
"""

from collections import Counter
from itertools import pairwise

from fleet.deliberation.rating.ranking import Standings
from fleet.deliberation.state import Candidate, Deliberation
from fleet.messages import StopReason
from fleet.times import from_rfc3339

SETTLED = 0.8
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


def reason_to_stop(state: Deliberation, standings: Standings, at_ms: int) -> tuple[StopReason, str] | None:
    """Why the round that has just ended is the last one, in a word and in a sentence; None: go on. `standings` are
    those of its critiques.
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
    if sentence := settled(standings):
        return "leader_settled", sentence
    moved = [candidate.similarity[state.round] for candidate in _revised(state)]
    if moved and min(moved) >= UNMOVED:
        return "no_movement", f"every revision shares at least {min(moved):.0%} of its word pairs with the text before"
    return None


def settled(standings: Standings) -> str | None:
    """The sentence that says that the leader is likely enough the best; None: the verdict is open."""
    leader = standings.order[0]
    chance = standings.p_best.get(leader, 0.0)
    return f"{leader} is the best with a probability of {chance:.2f}" if chance >= SETTLED else None


def _revised(state: Deliberation) -> list[Candidate]:
    return [candidate for candidate in state.candidates.values() if state.round in candidate.similarity]
