"""Compares ways to spend tokens on one task at equal budgets: each takes as many agents as its budget allows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from math import floor, hypot
from statistics import fmean
from typing import Any

from fleet.bench.parallel import spread
from fleet.bench.player import play_at_once
from fleet.bench.quality.aggregation import QUESTION, completed
from fleet.bench.quality.council import Council
from fleet.bench.quality.traits import Traits
from fleet.bench.report import Figure, mean_and_error, ratio_of_means
from fleet.requests.fields import MAX_AGENTS
from fleet.requests.task import Task

REFERENCE = "1_round"
"""Budgets are what one round costs with `BUDGET_AGENTS` agents."""
BUDGET_AGENTS = (3, 5, 8)
COST_PLAYS, VARYING_PLAYS = 2, 24


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to ask. `options`: fields of the `Task`."""

    name: str
    title: str
    options: Mapping[str, Any]

    def task(self, agents: int, **fields: Any) -> Task:
        return Task(num_agents=agents, **{**self.options, **fields})

    @property
    def varies(self) -> bool:
        """Whether equally many agents may cost more or less: by early stop, or by comparisons after a draw."""
        return "selection" in self.options or (self.options["rounds"] > 0 and "early_stop" not in self.options)

    @property
    def most_agents(self) -> int:
        """More cannot be afforded: a round costs more than none, and a further one more than the first."""
        return BUDGET_AGENTS[-1] if self.options["rounds"] else MAX_AGENTS


SINGLE = Strategy("single", "single answer", {"rounds": 0})
BEST_OF_N = Strategy("best_of_n", "best of N by vote", {"rounds": 0, "selection": "vote"})
STRATEGIES = (
    SINGLE,
    BEST_OF_N,
    Strategy("no_round", "scores, no round", {"rounds": 0}),
    Strategy("1_round", "1 round", {"rounds": 1, "early_stop": False}),
    Strategy("2_rounds", "2 rounds", {"rounds": 2, "early_stop": False}),
    Strategy("3_rounds", "3 rounds", {"rounds": 3, "early_stop": False}),
    Strategy("early_stop", "≤ 3 rounds, early stop", {"rounds": 3}),
)


@dataclass(frozen=True, slots=True)
class Point:
    """What one strategy reached with one budget, on average. `quality_error` and `solved_error`: standard errors."""

    strategy: str
    budget: int
    agents: float
    tokens: float
    quality: float
    quality_error: float | None
    solved: float
    solved_error: float | None
    rounds: float


@dataclass(frozen=True, slots=True)
class Job:
    """One strategy with so many agents."""

    strategy: Strategy
    agents: int
    traits: Traits
    seed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one deliberation; `quality` and `solved` are the winner's."""

    quality: float
    solved: bool
    agents: int
    tokens: int
    rounds: int


def outcome(job: Job, number: int) -> Outcome:
    """Equal numbers have equal first proposals, whatever the strategy."""
    task = job.strategy.task(job.agents, task_description=QUESTION, seed=number, models=job.traits.models)
    council = Council(task, job.traits, f"{job.seed}/strategies/{number}")
    state = play_at_once(task, council.answer, task_id=f"bench-{number}")
    winner = completed(state).winner_id
    return Outcome(council.quality(winner), council.solved(winner), job.agents, state.usage.total, state.rounds_run)


def costs(traits: Traits, seed: int, plays: int = VARYING_PLAYS) -> dict[str, list[float]]:
    """Strategy -> mean tokens with 1, 2 … agents; of `plays` deliberations where the strategy's cost varies."""
    jobs = [
        Job(strategy, agents, traits, seed) for strategy in STRATEGIES for agents in range(1, strategy.most_agents + 1)
    ]
    tokens = iter(spread(partial(_cost, plays), jobs))
    return {strategy.name: [next(tokens) for _ in range(strategy.most_agents)] for strategy in STRATEGIES}


def _cost(plays: int, job: Job) -> float:
    numbers = range(plays if job.strategy.varies else COST_PLAYS)
    return fmean(outcome(job, number).tokens for number in numbers)


def affordable(tokens: Sequence[float], budget: float) -> float:
    """The number of agents that spends the budget on average: 4.3 is five in three of ten tasks, else four."""
    if budget <= tokens[0]:
        return 1.0
    for agents, (fewer, more) in enumerate(pairwise(tokens), start=1):
        if fewer <= budget < more:
            return agents + (budget - fewer) / (more - fewer)
    return float(len(tokens))


def agents_for(task: int, average: float) -> int:
    """The agents of the `task`-th task, so that all tasks together have the average."""
    return floor((task + 1) * average) - floor(task * average)


def compare(traits: Traits, count: int, seed: int) -> "Comparison":
    """Every strategy with every budget, `count` tasks each."""
    cost = costs(traits, seed, min(count, VARYING_PLAYS))
    cells: list[tuple[str, int]] = []
    jobs: list[tuple[Job, int]] = []
    for reference in BUDGET_AGENTS:
        budget = cost[REFERENCE][reference - 1]
        for strategy in STRATEGIES:
            average = 1.0 if strategy is SINGLE else affordable(cost[strategy.name], budget)
            cells.append((strategy.name, round(budget)))
            jobs += [(Job(strategy, agents_for(number, average), traits, seed), number) for number in range(count)]
    found = spread(_outcome, jobs)
    outcomes = {cell: found[index * count : (index + 1) * count] for index, cell in enumerate(cells)}
    return Comparison.of(outcomes)


def _outcome(job: tuple[Job, int]) -> Outcome:
    return outcome(*job)


def _point(strategy: str, budget: int, found: Sequence[Outcome]) -> Point:
    quality, quality_error = mean_and_error([one.quality for one in found])
    solved, solved_error = mean_and_error([float(one.solved) for one in found])
    return Point(
        strategy=strategy,
        budget=budget,
        agents=fmean(one.agents for one in found),
        tokens=fmean(one.tokens for one in found),
        quality=quality,
        quality_error=quality_error,
        solved=solved,
        solved_error=solved_error,
        rounds=fmean(one.rounds for one in found),
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """`outcomes` by strategy and budget."""

    points: list[Point]
    outcomes: dict[tuple[str, int], list[Outcome]]

    @classmethod
    def of(cls, outcomes: dict[tuple[str, int], list[Outcome]]) -> "Comparison":
        return cls([_point(*cell, found) for cell, found in outcomes.items()], outcomes)

    def figures(self, traits: Traits, suffix: str) -> dict[str, Figure]:
        """At the middle budget: tasks solved, each against the best of N by vote; and what a round must gain."""
        budgets = sorted({point.budget for point in self.points})
        budget = budgets[len(budgets) // 2]
        at = {point.strategy: point for point in self.points if point.budget == budget}
        theirs = [float(one.solved) for one in self.outcomes[BEST_OF_N.name, budget]]
        figures = {}
        for strategy in STRATEGIES:
            if strategy is BEST_OF_N:
                continue
            ours, point = [float(one.solved) for one in self.outcomes[strategy.name, budget]], at[strategy.name]
            figures[f"solved_{strategy.name}{suffix}"] = Figure(
                *ratio_of_means(ours, theirs),
                of=f"tasks solved: {strategy.title}, {_agents(point)}, {point.tokens / 1000:.1f}k tokens; "
                f"baseline: best of {at[BEST_OF_N.name].agents:.1f} by vote",
                more={"budget": budget, "tokens": round(point.tokens), "agents": round(point.agents, 2)},
            )
        figures[f"round_must_gain{suffix}"] = self._must_gain(at, traits)
        return figures

    @staticmethod
    def _must_gain(at: Mapping[str, Point], traits: Traits) -> Figure:
        """A round moves all proposals alike: what the winner lacks is what it would have to gain in addition."""
        gain = traits.step * (traits.critic_skill - (1 - traits.critic_skill) * traits.deference)
        rival = max((at[BEST_OF_N.name], at["no_round"]), key=lambda point: point.quality)
        return Figure(
            rival.quality - at["1_round"].quality + gain,
            error=hypot(rival.quality_error or 0, at["1_round"].quality_error or 0),
            of=f"points that one round must gain to pay for its tokens; here it gains {gain:.2f} on average",
            more={"gain": gain},
        )

    def facts(self) -> list[dict[str, Any]]:
        """For JSON."""
        return [
            {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(point).items()}
            for point in self.points
        ]


def _agents(point: Point) -> str:
    return "1 agent" if point.agents == 1 else f"{point.agents:.1f} agents"
