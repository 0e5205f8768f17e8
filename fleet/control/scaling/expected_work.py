"""Estimates what running deliberations are still going to ask of the models.

Calls that are left follow from the state: rounds after the first as often as such rounds were run lately, since early
stops spare many. What a call takes is the mean of those of its phase that ended lately, by model.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import NamedTuple

from fleet.deliberation.state import Deliberation
from fleet.messages import encode
from fleet.requests.task import Task

JUDGING = frozenset({"critique", "score", "vote", "compare", "choose"})
FADES = 0.98
"""What an older call, or an older deliberation, counts beside the next one."""
MOST_TASKS = 100_000
CHARACTERS_PER_TOKEN, TEXT_TOKENS = 4, 1_000
"""Roughly, of any model."""


class Ahead(NamedTuple):
    """What a deliberation still needs: calls by phase, and how many of them at the same time."""

    calls: Mapping[str, float]
    at_once: int


class ExpectedWork:
    """As far as this process knows. A task that another process moves on is taken for an average one."""

    def __init__(self) -> None:
        self._ahead: dict[str, Ahead] = {}
        self._made: defaultdict[str, float] = defaultdict(float)
        """Calls that have ended, by phase."""
        self._tokens: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        """Theirs, by phase and model."""
        self._later_rounds = self._later_run = 0.0

    def note(self, state: Deliberation) -> None:
        """How far a task is."""
        if state.ended:
            self._ahead.pop(state.task_id, None)
        elif len(self._ahead) < MOST_TASKS or state.task_id in self._ahead:
            self._ahead[state.task_id] = Ahead(calls_left(state, self.later_rounds), calls_at_once(state))

    def learn(self, phase: str, model: str, tokens: int) -> None:
        """Takes note of a call that has ended."""
        by_model = self._tokens[phase]
        for name in by_model:
            by_model[name] *= FADES
        by_model[model] += tokens
        self._made[phase] = self._made[phase] * FADES + 1.0

    def learn_rounds(self, asked: int, run: int) -> None:
        """Takes note of a deliberation that was free to stop early."""
        self._later_rounds = self._later_rounds * FADES + max(0, asked - 1)
        self._later_run = self._later_run * FADES + max(0, run - 1)

    @property
    def later_rounds(self) -> float:
        """The share of rounds after the first that are run where they may be left out."""
        return self._later_run / self._later_rounds if self._later_rounds else 1.0

    def unknown(self, running: Collection[str]) -> list[str]:
        """Those of the tasks that nothing is known of."""
        return [task_id for task_id in running if task_id not in self._ahead]

    def calls(self, running: Collection[str]) -> float:
        """Expected calls, for all tasks that run; those that do not are forgotten."""
        return sum(self._by_phase(running).values())

    def calls_at_once(self, running: Collection[str]) -> float:
        """How many calls all tasks that run may have open at the same time."""
        share = self._share(running)
        return share * sum(ahead.at_once for ahead in self._ahead.values())

    @property
    def width(self) -> float:
        """Calls that a deliberation has open at once, on average; 0 where none is known."""
        return sum(ahead.at_once for ahead in self._ahead.values()) / len(self._ahead) if self._ahead else 0.0

    def tokens(self, running: Collection[str]) -> dict[str, float]:
        """Expected tokens by model, for all tasks that run."""
        expected: defaultdict[str, float] = defaultdict(float)
        for phase, calls in self._by_phase(running).items():
            for model, tokens in self._tokens_of(phase).items():
                expected[model] += calls * tokens
        return dict(expected)

    def _by_phase(self, running: Collection[str]) -> dict[str, float]:
        share = self._share(running)
        calls: defaultdict[str, float] = defaultdict(float)
        for ahead in self._ahead.values():
            for phase, count in ahead.calls.items():
                calls[phase] += count * share
        return dict(calls)

    def _share(self, running: Collection[str]) -> float:
        """What the known tasks are to be multiplied with, to stand for all."""
        self._ahead = {task_id: ahead for task_id, ahead in self._ahead.items() if task_id in running}
        return len(running) / len(self._ahead) if self._ahead else 0.0

    def _tokens_of(self, phase: str) -> dict[str, float]:
        """Of one call, by model. A phase that nothing is known of is like the others of its kind."""
        judges = phase in JUDGING
        like = [phase] if phase in self._made else [each for each in self._made if (each in JUDGING) is judges]
        made = sum(self._made[each] for each in like)
        expected: defaultdict[str, float] = defaultdict(float)
        for each in like:
            for model, tokens in self._tokens[each].items():
                expected[model] += tokens / made
        return expected


def expected_tokens(task: Task) -> float:
    """What a request lets expect before any like it has ended: each call reads what is asked, and some texts."""
    calls = task.num_agents * (2 + 2 * task.rounds) if task.num_agents > 1 else 1
    return calls * (len(encode(task)) / CHARACTERS_PER_TOKEN + TEXT_TOKENS)


def calls_left(state: Deliberation, later_rounds: float = 1.0) -> dict[str, float]:
    """Those that are open, and those of the phases to come, by phase. `later_rounds`: the share of rounds after the
    first that are run where the task may leave them out. Who waits for another's result may need none."""
    if state.waits:
        return {}
    phase, task = state.phase, state.task
    calls: defaultdict[str, float] = defaultdict(float)
    calls[phase] += sum(status == "open" for status in state.calls.values())
    if _goes_on(state):
        authors, rounds = _authors(state), task.rounds - state.round
        if task.early_stop:
            certain = min(rounds, 1) if state.round == 0 else 0
            share = certain + (rounds - certain) * later_rounds
        else:
            share = rounds
        calls["critique"] += share * authors
        calls["revise"] += share * authors + (authors if phase == "critique" else 0)
        calls["score"] += 0 if task.selection == "checks" else authors * (1 + _judges(state))
    if (shadows := state.shadows) is not None:
        open_ = [slot for slot, status in shadows.calls.items() if status == "open"]
        proposals = sum(slot in shadows.ids for slot in open_)
        calls["propose"] += proposals
        calls["score"] += len(open_) - proposals
    return dict(calls)


def calls_at_once(state: Deliberation) -> int:
    """How many calls may be open at the same time, now or in a phase to come."""
    if state.waits:
        return 0
    open_ = sum(status == "open" for status in state.calls.values())
    if state.shadows is not None:
        open_ += sum(status == "open" for status in state.shadows.calls.values())
    return max(open_, _authors(state) * (1 + _judges(state)) if _goes_on(state) else 0)


def _judges(state: Deliberation) -> int:
    """How many review each proposal beside its council."""
    return 0 if state.task.selection in ("vote", "checks") else len(state.judges)


def _goes_on(state: Deliberation) -> bool:
    """Whether another phase follows."""
    return state.phase in ("propose", "critique", "revise") and _authors(state) >= 2


def _authors(state: Deliberation) -> int:
    return len(state.agents) if state.phase == "propose" else len(state.candidates)
