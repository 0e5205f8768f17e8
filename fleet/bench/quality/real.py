"""Compares the strategies on real models: tasks whose answers can be checked, at about equal tokens.

One round with `REFERENCE_AGENTS` is played first: the tokens it used are everybody's budget. What other strategies cost
with more or fewer agents is foreseen from two tasks, each with two and with four agents; what they used is reported.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

from msgspec import structs

from fleet.bench.player import play
from fleet.bench.quality.baselines import raw_mean
from fleet.bench.quality.council import INJECTION, answered, proposal
from fleet.bench.quality.strategies import (
    BEST_OF_N,
    REFERENCE,
    SINGLE,
    STRATEGIES,
    Comparison,
    Outcome,
    Strategy,
    affordable,
    agents_for,
)
from fleet.bench.quality.tasks import Puzzle, final_answer
from fleet.bench.report import Figure, ratio_of_means
from fleet.clock import now_ms
from fleet.config import Settings
from fleet.control.models import judges_of
from fleet.deliberation.rating.judging import final_scores
from fleet.deliberation.state import Deliberation
from fleet.errors import ConfigError
from fleet.messages import AgentProgress, AgentRequested, AgentResponse, DeliberationCompleted
from fleet.messages.trace_ids import TraceContext, digest
from fleet.requests.fields import MAX_AGENTS
from workers.calls.caller import Caller
from workers.llm.client import ModelClient

REFERENCE_AGENTS = 3
FORESIGHT_TASKS, FORESIGHT_AGENTS = 2, (2, 4)
ATTACKED_TASKS = 5
MAJORITY = "majority"
RUBRIC = {"correctness": 3.0, "clarity": 1.0}
TASK_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may be spent: deliberations at once, seconds altogether, tokens of one answer."""

    at_once: int = 8
    seconds: float = 1800.0
    max_tokens: int = 2048


class Checkable(Protocol):
    """A task whose answers can be checked."""

    @property
    def text(self) -> str: ...
    def solved_by(self, text: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class RealRun:
    """One deliberation on a real model."""

    puzzle: Checkable
    state: Deliberation
    judging: int = 0
    """Tokens that judges of the settings used."""

    @property
    def outcome(self) -> Outcome:
        result = self.state.result
        winner = result.results[0].proposal.content if isinstance(result, DeliberationCompleted) else ""
        solved = self.puzzle.solved_by(winner)
        agents, tokens = len(self.state.agents), self.state.usage.total
        return Outcome(float(solved), solved, agents, tokens, self.state.rounds_run)

    @property
    def majority(self) -> Outcome:
        """The most frequent answer of the first proposals, for their tokens alone; of equals the first agent's."""
        texts = [self.state.candidates[agent].proposal.content for agent in self.state.ranked_agents]
        answers = Counter(answer for text in texts if (answer := final_answer(text)) is not None)
        chosen = max(answers, key=lambda answer: answers[answer], default="")
        solved = self.puzzle.solved_by(f"Answer: {chosen}")
        tokens = sum(record.tokens for record in self.state.phases if record.phase == "propose")
        return Outcome(float(solved), solved, len(self.state.agents), tokens, 0)


class Models:
    """Plays on the models of `settings`, its judges among them, as workers would call them. `async with` closes its
    connections.
    """

    def __init__(self, settings: Settings, bounds: Bounds, seed: int) -> None:
        roles = {
            name: structs.replace(role, max_tokens=min(role.max_tokens, bounds.max_tokens))
            for name, role in settings.roles.items()
        }
        self._settings = structs.replace(settings, roles=roles)
        self._judges = judges_of(settings)
        self._room = asyncio.Semaphore(bounds.at_once)
        self._until = now_ms() + bounds.seconds * 1000
        self._seed = seed

    async def __aenter__(self) -> "Models":
        self._client = ModelClient(self._settings)
        self._client.start()
        self._caller = Caller(self._settings, self._client, _unheard)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, call: AgentRequested) -> AgentResponse:
        return await self._caller.call(call, 1, TraceContext(digest(16, call.task_id), digest(8, call.msg_id)))

    async def play(
        self, puzzle: Checkable, number: int, strategy: Strategy, agents: int, answerer: Any = None
    ) -> RealRun | None:
        """None when the time is over."""
        async with self._room:
            left_s = (self._until - now_ms()) / 1000
            if left_s < 1:
                return None
            task = strategy.task(
                agents,
                task_description=puzzle.text,
                rubric=RUBRIC,
                seed=self._seed + 10_000 * number,
                timeout_seconds=min(TASK_TIMEOUT_S, left_s),
            )
            name, judging = f"bench-{strategy.name}-{number}", 0

            async def answer(call: AgentRequested) -> AgentResponse:
                nonlocal judging
                response: AgentResponse = await (answerer or self.ask)(call)
                judging += response.usage.total if call.judge is not None else 0
                return response

            state = await play(task, answer, task_id=name, clock=now_ms, judges=self._judges)
            # Cut short by the benchmark's own limit: says nothing of the strategy. A judge has a limit of its own.
            cut = left_s < TASK_TIMEOUT_S and any(
                call.error_type == "DeadlineExceeded" and call.agent_id in state.agents for call in state.failures
            )
            return None if cut else RealRun(puzzle, state, judging)

    async def play_all(self, puzzles: Sequence[Checkable], strategy: Strategy, average: float) -> list[RealRun]:
        """Those that were played before the time was over."""
        plays = (
            self.play(puzzle, number, strategy, agents_for(number, average)) for number, puzzle in enumerate(puzzles)
        )
        return [played for played in await asyncio.gather(*plays) if played is not None]


async def _unheard(event: AgentProgress, number: int, traceparent: str) -> None:
    """Nobody watches."""


@dataclass(frozen=True, slots=True)
class Findings:
    """Of a real model. `comparison` has one budget."""

    comparison: Comparison
    figures: dict[str, Figure]
    facts: dict[str, Any]


async def compare(
    settings: Settings, puzzles: Sequence[Puzzle], bounds: Bounds, seed: int, note: Callable[[str], None]
) -> Findings:
    """Plays all strategies. Raises `ConfigError` where no model answers."""
    async with Models(settings, bounds, seed) as models:
        reference = next(strategy for strategy in STRATEGIES if strategy.name == REFERENCE)
        games: dict[str, list[RealRun]] = {}
        note(f"{len(puzzles)} tasks: {SINGLE.title}")
        games[SINGLE.name] = await models.play_all(puzzles, SINGLE, 1)
        check_answered(games[SINGLE.name])
        note(f"{len(puzzles)} tasks: {reference.title}, {REFERENCE_AGENTS} agents")
        games[REFERENCE] = await models.play_all(puzzles, reference, REFERENCE_AGENTS)
        one, budget = _tokens(games[SINGLE.name]), _tokens(games[REFERENCE])
        # The tasks to foresee from may be longer or shorter than others.
        usual = budget / (_tokens(games[REFERENCE][:FORESIGHT_TASKS]) or 1)
        for strategy in STRATEGIES:
            if strategy.name in games:
                continue
            tried = [await models.play_all(puzzles[:FORESIGHT_TASKS], strategy, agents) for agents in FORESIGHT_AGENTS]
            if not all(tried):
                note(f"{strategy.title}: no time left")
                continue
            average = affordable(foreseen(one, *(usual * _tokens(played) for played in tried)), budget)
            note(f"{len(puzzles)} tasks: {strategy.title}, {average:.1f} agents")
            games[strategy.name] = await models.play_all(puzzles, strategy, average)
        note("proposals that ask for a 10")
        attack = await _injection(models, games[REFERENCE])
    return _found(games, budget, attack)


def check_answered(played: Sequence[RealRun]) -> None:
    """Raises `ConfigError` when no model gave a single answer: nothing else would come of it."""
    failures = [call for one in played for call in one.state.failures]
    if not any(one.state.candidates for one in played):
        why = f": {failures[0].error_type}: {failures[0].error}" if failures else " in time"
        raise ConfigError(f"VLLM_URL: no model answers{why}")


def _tokens(played: Sequence[RealRun]) -> float:
    return fmean(one.state.usage.total for one in played) if played else 0.0


def foreseen(one: float, two: float, four: float) -> list[float]:
    """Tokens with 1, 2 … agents, from those with one, two and four: each agent writes, and reads all the others."""
    square = max(0.0, four - 2 * two) / 8
    linear = two / 2 - 2 * square
    return [one, *(linear * agents + square * agents**2 for agents in range(2, MAX_AGENTS + 1))]


def _found(games: dict[str, list[RealRun]], budget: float, attack: Figure) -> Findings:
    outcomes = {name: {one.puzzle: one.outcome for one in played} for name, played in games.items() if played}
    theirs = outcomes.get(BEST_OF_N.name, {})
    if theirs:
        outcomes[MAJORITY] = {one.puzzle: one.majority for one in games[BEST_OF_N.name]}
    comparison = Comparison.of({(name, round(budget)): list(found.values()) for name, found in outcomes.items()})
    figures = {}
    for point in comparison.points:
        ours = outcomes[point.strategy]
        pairs = [(float(ours[puzzle].solved), float(theirs[puzzle].solved)) for puzzle in ours if puzzle in theirs]
        paired = bool(pairs) and ours is not theirs
        value, baseline, error = ratio_of_means(*zip(*pairs, strict=True)) if paired else (point.solved, None, None)
        figures[f"real_solved_{point.strategy}"] = Figure(
            value,
            baseline,
            error,
            of=f"tasks solved of {len(pairs) if paired else len(ours)}, {point.agents:.1f} agents, "
            f"{point.tokens / 1000:.1f}k tokens" + ("; baseline: best of N by vote" if paired else ""),
            more={"tokens": round(point.tokens), "agents": round(point.agents, 2), "tasks": len(ours)},
        )
    figures["real_injection_points"] = attack
    states = [one.state for played in games.values() for one in played]
    models = {candidate.proposal.model for state in states for candidate in state.candidates.values()}
    failed = Counter(call.error_type for state in states for call in state.failures)
    facts = {
        "tasks": len(games[SINGLE.name]),
        "models": sorted(models),
        "calls": sum(state.calls_ended for state in states),
        "failed_calls": dict(sorted(failed.items())),
    }
    return Findings(comparison, figures, facts)


async def _injection(models: Models, played: Sequence[RealRun]) -> Figure:
    """The same proposals, judged with and without the sentence in the first of them."""
    councils = [one for one in played if len(one.state.candidates) == REFERENCE_AGENTS][:ATTACKED_TASKS]
    gains = [gain for one in councils if (gain := await _gain(models, one)) is not None]
    ours, raw = [gain for gain, _ in gains], [gain for _, gain in gains]
    of = f"points gained by asking for a 10, on {len(gains)} tasks; baseline: raw mean"
    if not gains:
        return Figure(None, None, None, of=of)
    return Figure(fmean(ours), fmean(raw), None, of=of)


async def _gain(models: Models, one: RealRun) -> tuple[float, float] | None:
    """None when not everything was judged."""
    scores: list[tuple[float, float]] = []
    attacked = one.state.ranked_agents[0]
    texts = {agent: one.state.candidates[agent].proposal.content for agent in one.state.ranked_agents}
    for injected in (True, False):
        shown = {**texts, attacked: f"{texts[attacked]}\n\n{INJECTION}"} if injected else texts

        async def answer(call: AgentRequested, shown: dict[str, str] = shown) -> AgentResponse:
            if call.phase != "propose":
                return await models.ask(call)
            return answered(call, 0, proposal=proposal(call, shown[call.agent_id], "as before", 0))

        judged = await models.play(one.puzzle, 0, Strategy("injection", "", {"rounds": 0}), len(texts), answer)
        if judged is None or not isinstance(judged.state.result, DeliberationCompleted):
            return None
        raw = raw_mean(final_scores(judged.state))
        adjusted = {row.agent_id: row.score for row in judged.state.result.results}[attacked]
        if adjusted is None or attacked not in raw:
            return None
        scores.append((adjusted, raw[attacked]))
    (ours, raw_with), (ours_without, raw_without) = scores
    return ours - ours_without, raw_with - raw_without
