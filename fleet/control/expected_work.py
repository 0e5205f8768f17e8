"""Estimates what running deliberations are still going to ask of the models.

Calls that are left follow from the state; what a call takes is the mean of those that ended lately, by model.
"""

from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

from fleet.deliberation.state import Deliberation

JUDGING = frozenset({"critique", "score", "vote", "compare", "choose"})
FADES = 0.98
"""What an older call counts beside the next one."""
MOST_TASKS = 100_000


class CallsLeft(NamedTuple):
    """Calls that a deliberation still needs."""

    writing: int
    judging: int


class ExpectedWork:
    """As far as this process knows. A task that another process moves on is taken for an average one."""

    def __init__(self) -> None:
        self._left: dict[str, CallsLeft] = {}
        self._calls: dict[bool, defaultdict[str, float]] = {True: defaultdict(float), False: defaultdict(float)}
        self._tokens: dict[bool, defaultdict[str, float]] = {True: defaultdict(float), False: defaultdict(float)}

    def note(self, state: Deliberation) -> None:
        """How far a task is."""
        if state.ended:
            self._left.pop(state.task_id, None)
        elif len(self._left) < MOST_TASKS or state.task_id in self._left:
            self._left[state.task_id] = calls_left(state)

    def learn(self, phase: str, model: str, tokens: int) -> None:
        """A call has ended."""
        judges = phase in JUDGING
        for sums, value in ((self._calls[judges], 1.0), (self._tokens[judges], float(tokens))):
            for name in sums:
                sums[name] *= FADES
            sums[model] += value

    def tokens(self, running: Collection[str]) -> dict[str, float]:
        """Expected tokens by model, for all tasks that run; those that do not are forgotten."""
        self._left = {task_id: left for task_id, left in self._left.items() if task_id in running}
        known = len(self._left)
        share = len(running) / known if known else 0.0
        ahead: defaultdict[str, float] = defaultdict(float)
        for judges, calls in (
            (False, sum(left.writing for left in self._left.values())),
            (True, sum(left.judging for left in self._left.values())),
        ):
            made = sum(self._calls[judges].values())
            for model, tokens in self._tokens[judges].items():
                ahead[model] += calls * share * tokens / made
        return dict(ahead)


def calls_left(state: Deliberation) -> CallsLeft:
    """Those that are open, and those of the phases to come if all rounds are run."""
    phase, task = state.phase, state.task
    open_ = sum(status == "open" for status in state.calls.values())
    authors = len(state.agents) if phase == "propose" else len(state.candidates)
    if phase not in ("propose", "critique", "revise") or authors < 2:
        rounds, scores = 0, 0
    else:
        rounds, scores = task.rounds - state.round, 0 if task.selection == "checks" else authors
    proposals, readings = _left_of_shadows(state)
    writing = rounds * authors + (authors if phase == "critique" else 0) + proposals
    judging = rounds * authors + scores + readings
    return CallsLeft(writing, judging + open_) if phase in JUDGING else CallsLeft(writing + open_, judging)


def _left_of_shadows(state: Deliberation) -> CallsLeft:
    """Their open calls."""
    shadows = state.shadows
    if shadows is None:
        return CallsLeft(0, 0)
    open_ = [slot for slot, status in shadows.calls.items() if status == "open"]
    proposals = sum(slot in shadows.ids for slot in open_)
    return CallsLeft(proposals, len(open_) - proposals)
