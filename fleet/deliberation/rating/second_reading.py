"""Decides who reads what a second time, or in addition, before the scores are final.

* Under `options.judges_per_proposal` every proposal has been read by so many only. The best `BEST` are then read by up
  to `MORE` reviewers more: what decides is looked at by more eyes than what does not.
* Under `options.second_reading` all reviewers score again, in reversed order, while the verdict is open. The mean of
  both readings counts.
"""

from random import Random

from fleet.deliberation.labels import shown_order
from fleet.deliberation.rating.faults import examined
from fleet.deliberation.rating.judging import standings
from fleet.deliberation.rating.ranking import shortlist
from fleet.deliberation.state import Deliberation
from fleet.deliberation.stopping import settled

BEST, MORE = 3, 3


def second_orders(state: Deliberation) -> dict[str, tuple[str, ...]]:
    """Reviewer -> the authors whose proposals it reads now, in order; empty: nobody reads any more."""
    if state.task.selection not in ("score", "architect") or len(state.candidates) < 3 or not state.scores:
        return {}
    first = {agent: shown_order(state, "score", state.round, agent) for agent in state.ranked_agents}
    if len(next(iter(first.values()))) < len(first) - 1:
        return _more_readers(state, first)
    if state.task.second_reading and settled(standings(state)) is None:
        return {agent: order[::-1] for agent, order in first.items()}
    return {}


def _more_readers(state: Deliberation, first: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Those who have read least of the best read them, in an order drawn from the seed."""
    found = examined(state)
    best = shortlist(standings(state, found), BEST, found.faulty, found.copies)
    random = Random(f"{state.seed}/{state.round}/score/2")
    reads: dict[str, list[str]] = {agent: [] for agent in random.sample(list(first), len(first))}
    for author in best:
        able = [agent for agent in reads if agent != author and author not in first[agent]]
        for agent in sorted(able, key=lambda agent: len(reads[agent]))[:MORE]:
            reads[agent].append(author)
    return {agent: tuple(random.sample(reads[agent], len(reads[agent]))) for agent in first if reads[agent]}
