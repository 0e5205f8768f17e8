"""Says how a suite's items are played, and what each way of deciding makes of one play.

Where agents write, each way has as many of them as the tokens of a council of `REFERENCE_AGENTS` allow. Where texts are
given, `JUDGES` agents stand for their authors, each text for several of them, so that one play of scores tells what one
judge, the mean of all, and the council's ranking would have said. Judges of the settings review what is scored.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleet.bench.quality.aggregation import completed
from fleet.bench.quality.baselines import raw_mean, share_of_win
from fleet.bench.quality.council import answered, proposal
from fleet.bench.quality.real import RealRun
from fleet.bench.quality.strategies import Strategy
from fleet.bench.quality.suites.items import Item
from fleet.deliberation.rating.faults import copies
from fleet.deliberation.rating.judging import final_scores, pooled
from fleet.deliberation.rating.scoring import Score
from fleet.deliberation.state import Deliberation
from fleet.messages import AgentRequested, AgentResponse

JUDGES = 4
SINGLE = "single"
Verdicts = dict[str, tuple[float, int]]
"""Way -> (share of the win that the right text has: 1, 0 or of a draw between, tokens)."""
Read = Callable[[Item, RealRun], Verdicts]


@dataclass(frozen=True, slots=True)
class Play:
    """A strategy, and what is read off its end."""

    strategy: Strategy
    read: Read


def titles(*, judges: bool) -> Mapping[str, str]:
    """Of every way."""
    return _JUDGED_TITLES if judges else _WRITTEN_TITLES


def plays(*, judges: bool) -> Sequence[Play]:
    """Where agents write, the first is that of the single answer, the second that of the council."""
    return _JUDGED if judges else _WRITTEN


def given(item: Item, call: AgentRequested) -> AgentResponse | None:
    """Answers for the author of a given text; None for a call that a model must answer."""
    if call.phase != "propose":
        return None
    text = item.candidates[(int(call.agent_id.rpartition("-")[2]) - 1) % len(item.candidates)]
    return answered(call, 0, proposal=proposal(call, text, "given", 0))


# --- what is read off -------------------------------------------------------------------------------------------------


def _winner(name: str) -> Read:
    def read(item: Item, run: RealRun) -> Verdicts:
        state = run.state
        return {name: (float(item.solved_by(_text(state, completed(state).winner_id))), state.usage.total)}

    return read


def _mean(item: Item, run: RealRun) -> Verdicts:
    state = run.state
    return {"mean": (_share(item, state, final_scores(state)), state.usage.total)}


def _merged(item: Item, run: RealRun) -> Verdicts:
    """The merged text where it was judged to be better, else the winner's."""
    state, event = run.state, completed(run.state)
    better = event.synthesis is not None and event.synthesis.better
    text = event.synthesis.content if event.synthesis and better else _text(state, event.winner_id)
    return {"synthesis": (float(item.solved_by(text)), state.usage.total)}


def _judged(item: Item, run: RealRun) -> Verdicts:
    """One judge, the mean of all, and the council's ranking of the same scores."""
    state = run.state
    scores, used = pooled(final_scores(state), copies(state)), state.usage.total
    first = next((one.reviewer for one in scores), None)
    single = (used - run.judging) // len(state.agents)
    return {
        SINGLE: (_share(item, state, [one for one in scores if one.reviewer == first]), single),
        "mean": (_share(item, state, scores), used),
        **_winner("council")(item, run),
    }


def _share(item: Item, state: Deliberation, scores: Sequence[Score]) -> float:
    """Of the win by the raw means: the texts that are right, of all that are the best."""
    points = raw_mean(scores)
    return sum(share_of_win(points, author) for author in points if item.solved_by(_text(state, author)))


def _text(state: Deliberation, agent: str) -> str:
    return state.candidates[agent].proposal.content


_NO_ROUND: dict[str, Any] = {"rounds": 0}
_WRITTEN = (
    Play(Strategy(SINGLE, "single answer", _NO_ROUND), _winner(SINGLE)),
    Play(Strategy("council", "council, 1 round", {"rounds": 1}), _winner("council")),
    Play(Strategy("vote", "best of N by vote", {**_NO_ROUND, "selection": "vote"}), _winner("vote")),
    Play(Strategy("mean", "best of N by mean score", _NO_ROUND), _mean),
    Play(Strategy("synthesis", "council with synthesis", {"rounds": 1, "synthesis": True}), _merged),
)
_JUDGED = (
    Play(Strategy("scores", "scores", _NO_ROUND), _judged),
    Play(Strategy("vote", "vote", {**_NO_ROUND, "selection": "vote"}), _winner("vote")),
    Play(Strategy("again", "", {**_NO_ROUND, "second_reading": True}), _winner("second_reading")),
)
_WRITTEN_TITLES = {play.strategy.name: play.strategy.title for play in _WRITTEN}
_JUDGED_TITLES = {
    SINGLE: "one judge",
    "vote": f"vote of {JUDGES} judges",
    "mean": "mean of all judges",
    "council": "the council's ranking of the same scores",
    "second_reading": "the same, open verdicts read again",
}
