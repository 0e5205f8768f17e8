"""Plays a suite on real models, goes on where an earlier run stood, and reports every way beside the single answer."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from statistics import fmean
from typing import Any

from fleet.bench.quality.real import (
    FORESIGHT_AGENTS,
    FORESIGHT_TASKS,
    REFERENCE_AGENTS,
    Bounds,
    Models,
    RealRun,
    check_answered,
    foreseen,
)
from fleet.bench.quality.strategies import Strategy, affordable, agents_for
from fleet.bench.quality.suites.items import Item, Suite
from fleet.bench.quality.suites.plays import JUDGES, SINGLE, Play, given, plays, titles
from fleet.bench.quality.suites.record import Head, Line, Record
from fleet.bench.report import Figure, Note, Panel, Report, Table, machine
from fleet.config import Settings
from fleet.control.models import judges_of
from fleet.errors import ConfigError
from fleet.messages import AgentRequested, AgentResponse, DeliberationCompleted

RESAMPLES = 2000
TELLS = 10
"""So often progress is told of each play."""


def measure(
    settings: Settings, suite: Suite, record: Record, *, tasks: int, bounds: Bounds, seed: int, note: Note
) -> Report:
    """Raises `ConfigError` where no model answers, or the record is of another run."""
    return asyncio.run(_Run(suite, record, tasks, bounds, seed, note).measure(settings))


@dataclass(frozen=True, slots=True)
class _Run:
    suite: Suite
    record: Record
    tasks: int
    bounds: Bounds
    seed: int
    note: Note

    async def measure(self, settings: Settings) -> Report:
        suite, record = self.suite, self.record
        # The whole is shuffled, so that more tasks of the same seed are the same ones and others.
        items = Random(f"suite/{self.seed}").sample(list(suite.items), len(suite.items))[: self.tasks]
        if not items:
            raise ConfigError(f"{suite.name}: no item that can be checked")
        facts: dict[str, Any] = {
            "suite": suite.name,
            "sha256": suite.sha256,
            "seed": self.seed,
            "max_tokens": self.bounds.max_tokens,
            "judges": [f"{each.name}: {each.kind}, {each.model or each.endpoint}" for each in judges_of(settings)],
        }
        async with Models(settings, self.bounds, self.seed) as models:
            if record.head is None:
                record.begin(Head(**facts, agents=await agents_of_plays(models, suite, items, self.note)))
            else:
                record.goes_on_with(**facts)
                self.note(f"{len(record.lines)} plays are on record")
            assert record.head is not None
            for play in plays(judges=suite.judges):
                await self._play(models, play, items, record.head.agents[play.strategy.name])
        return report(suite, record, items, self.seed)

    async def _play(self, models: Models, play: Play, items: Sequence[Item], average: float) -> None:
        name, done = play.strategy.name, 0
        missing = [(n, item) for n, item in enumerate(items) if (name, item.key) not in self.record.lines]
        self.note(f"{name}: {len(missing)} of {len(items)} tasks, {average:.1f} agents")

        async def one(number: int, item: Item) -> None:
            nonlocal done
            answerer = partial(_answer, models, item) if item.candidates else None
            played = await models.play(item, number, play.strategy, agents_for(number, average), answerer)
            done += 1
            # What nobody answered is asked again by the next run.
            if played is not None and isinstance(played.state.result, DeliberationCompleted):
                self.record.add(_line(play, item, played))
            if done * TELLS // len(missing) > (done - 1) * TELLS // len(missing):
                self.note(f"{name}: {done} of {len(missing)}")

        await asyncio.gather(*(one(number, item) for number, item in missing))


async def agents_of_plays(models: Models, suite: Suite, items: Sequence[Item], note: Note) -> dict[str, float]:
    """By strategy: where agents write so many that all use about the tokens of a council of `REFERENCE_AGENTS`.

    Raises `ConfigError` where no model answers.
    """
    if suite.judges:
        return {play.strategy.name: float(JUDGES) for play in plays(judges=True)}
    note(f"how many agents the tokens of {REFERENCE_AGENTS} in a council allow")

    async def tokens(strategy: Strategy, agents: int) -> float:
        played = await models.play_all(items[:FORESIGHT_TASKS], strategy, agents)
        check_answered(played)
        return fmean(one.state.usage.total for one in played if one.state.candidates)

    single, council, *others = (play.strategy for play in plays(judges=False))
    one, budget = await tokens(single, 1), await tokens(council, REFERENCE_AGENTS)
    agents = {single.name: 1.0, council.name: float(REFERENCE_AGENTS)}
    for strategy in others:
        some = [await tokens(strategy, count) for count in FORESIGHT_AGENTS]
        agents[strategy.name] = affordable(foreseen(one, *some), budget)
    return agents


async def _answer(models: Models, item: Item, call: AgentRequested) -> AgentResponse:
    return given(item, call) or await models.ask(call)


def _line(play: Play, item: Item, played: RealRun) -> Line:
    state = played.state
    return Line(
        play=play.strategy.name,
        item=item.key,
        agents=len(state.agents),
        rounds=state.rounds_run,
        verdicts=play.read(item, played),
        models=tuple(sorted({*state.usage_by_model})),
        failed=dict(sorted(Counter(call.error_type for call in state.failures).items())),
    )


# --- the report -------------------------------------------------------------------------------------------------------


def report(suite: Suite, record: Record, items: Sequence[Item], seed: int) -> Report:
    """Every way, on the items that it and the single answer were played on."""
    names = titles(judges=suite.judges)
    found: dict[str, dict[str, tuple[float, int]]] = {name: {} for name in names}
    agents: dict[str, list[int]] = {name: [] for name in names}
    wanted, failed = {item.key for item in items}, Counter[str]()
    lines = [line for line in record.lines.values() if line.item in wanted]
    for line in lines:
        failed.update(line.failed)
        for name, verdict in line.verdicts.items():
            found[name][line.item] = verdict
            agents[name].append(1 if name == SINGLE else line.agents)
    single = {key: solved for key, (solved, _) in found[SINGLE].items()}
    figures, rows, points = {}, [], {}
    for name, title in names.items():
        pairs = [(solved, single[key]) for key, (solved, _) in found[name].items() if key in single]
        if not pairs:
            continue
        share, tokens = fmean(ours for ours, _ in pairs), fmean(tokens for _, tokens in found[name].values())
        lead = difference(pairs)
        rows.append((title, len(pairs), share, *lead, fmean(agents[name]), tokens))
        points[title] = [(tokens, share)]
        figures[f"{suite.name}_{name}"] = Figure(
            share,
            fmean(theirs for _, theirs in pairs) if name != SINGLE else None,
            of=f"right answers of {len(pairs)}: {title}" + ("; baseline: single" if name != SINGLE else ""),
            more={"tokens": round(tokens), "difference": lead[0], "difference_95": lead[1:]},
        )
    models = sorted({model for line in lines for model in line.models})
    columns = ("way", "items", "right", "minus_single", "from", "to", "agents", "tokens")
    return Report(
        "quality",
        figures,
        settings={"suite": suite.name, "sha256": suite.sha256, "tasks": len(items), "left_out": suite.left_out}
        | {"seed": seed, "models": models, "failed_calls": dict(failed)}
        | ({"judges": list(record.head.judges)} if record.head else {}),
        machine=machine(),
        tables=[Table("ways", "right answers, and the difference to the single one (95 %, paired)", columns, rows)],
        panels=[Panel(f"{suite.name}, {len(items)} tasks", "tokens a task", "right answers", points)],
    )


def difference(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Mean difference and its 95 % interval, by a bootstrap over the items, of which each keeps its pair."""
    differences = [one - other for one, other in pairs]
    rng = Random(0)
    means = sorted(fmean(rng.choices(differences, k=len(differences))) for _ in range(RESAMPLES))
    ends = means[round(0.025 * RESAMPLES)], means[round(0.975 * RESAMPLES) - 1]
    return round(fmean(differences), 4), round(ends[0], 4), round(ends[1], 4)
