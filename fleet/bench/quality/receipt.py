"""Runs `fleet bench quality`, with simulated agents first, then on real models."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from fleet.bench.quality import aggregation, strategies
from fleet.bench.quality.aggregation import Setting
from fleet.bench.quality.strategies import Comparison
from fleet.bench.quality.traits import BIASED, FAIR, FAMILY, WEAK, Traits, consistency
from fleet.bench.report import Figure, Report, machine
from fleet.config import Settings

if TYPE_CHECKING:
    from fleet.bench.quality.real import Bounds, Findings

CONSISTENCY_PAIRS = 20_000
GPT4_CONSISTENCY = 0.65
"""Of GPT-4 with the default prompt (Zheng et al. 2023, arXiv:2306.05685): what the biases are calibrated against."""
TRIALS_PER_TASK, TRIALS_PER_ATTACK = 20, 3
LEAST_TASKS = 10

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A set of traits; `suffix` tells its figures apart."""

    title: str
    suffix: str
    traits: Traits
    rankings_only: bool = False
    """Without strategies, injections and the like."""


def scenarios(both: dict[str, Any], biases: dict[str, Any]) -> tuple[Scenario, ...]:
    """Fair, biased and weak judges, with some traits set: `both` for all of them, `biases` for the biased ones, which
    then stand for the weak ones, too.
    """
    fair, biased = replace(FAIR, **both), replace(BIASED, **both, **biases)
    if "position_bias" in biases:
        biased = replace(biased, position_spread=abs(biased.position_bias) / 2)
    judges = (Scenario("fair judges", "", fair), Scenario("biased judges", "_biased", biased))
    if biases:
        return judges
    family = Scenario("judges that share errors", "_family", replace(FAMILY, **both), rankings_only=True)
    return (*judges, family, Scenario("weak judges", "_weak", replace(WEAK, **both), rankings_only=True))


@dataclass(frozen=True, slots=True)
class Receipt:
    """The report, and the curves for a plot: title -> points; `real` has those of real models."""

    report: Report
    curves: dict[str, Comparison]
    real: Comparison | None = None


def simulated(scenarios: tuple[Scenario, ...], *, trials: int, agents: int, seed: int, note: Note) -> Receipt:
    """All scenarios. The figures of the fair one come first."""
    figures: dict[str, Figure] = {}
    details: dict[str, Figure] = {}
    curves = {}
    for scenario in scenarios:
        setting, suffix = Setting(scenario.traits, agents, seed), scenario.suffix
        note(f"{scenario.title}: {trials} deliberations of {agents}")
        judged = aggregation.trials(setting, trials)
        figures[f"best_wins_vs_best_aggregator{suffix}"] = aggregation.against_best_aggregator(judged, scenario.title)
        details |= aggregation.against_each(judged, suffix)
        details[f"p_best_calibration{suffix}"] = aggregation.calibration(judged)
        details[f"reward_model_best_wins{suffix}"] = aggregation.reward_model(setting, judged)
        if suffix:
            figures[f"judge_consistency{suffix}"] = Figure(
                consistency(scenario.traits, pairs=CONSISTENCY_PAIRS, seed=seed),
                GPT4_CONSISTENCY,
                of="a simulated judge keeps its verdict on a pair in both orders; baseline: GPT-4 (arXiv:2306.05685)",
            )
        if scenario.rankings_only:
            continue
        if suffix:
            details[f"tie_margin_best_wins{suffix}"] = aggregation.tie_margin(setting, judged)
        attacks = max(LEAST_TASKS, trials // TRIALS_PER_ATTACK)
        details[f"injection_points{suffix}"] = aggregation.injection(setting, attacks)
        details[f"injection_wins{suffix}"] = aggregation.injected_wins(setting, attacks)
        beside = replace(setting, judges=(aggregation.JUDGE,))
        details[f"reward_model_injection_wins{suffix}"] = aggregation.injected_wins(beside, attacks)
        tasks = max(LEAST_TASKS, trials // TRIALS_PER_TASK)
        note(f"{scenario.title}: {len(strategies.STRATEGIES)} strategies, {len(strategies.BUDGET_AGENTS)} budgets")
        curves[scenario.title] = strategies.compare(scenario.traits, tasks, seed)
        details |= curves[scenario.title].figures(scenario.traits, suffix)
    report = Report(
        "quality",
        {**figures, **details},
        settings={"trials": trials, "agents": agents, "seed": seed},
        machine=machine(),
        more={
            "traits": {scenario.title: asdict(scenario.traits) for scenario in scenarios},
            "curves": {title: comparison.facts() for title, comparison in curves.items()},
        },
    )
    return Receipt(report, curves)


def real(settings: Settings, *, tasks: int, bounds: "Bounds", seed: int, note: Note) -> "Findings":
    """On the models that `settings` name. Raises `ConfigError` where none answers."""
    from fleet.bench.quality.real import compare
    from fleet.bench.quality.tasks import puzzles

    return asyncio.run(compare(settings, puzzles(tasks, seed), bounds, seed, note))


def with_real(receipt: Receipt, found: "Findings") -> Receipt:
    """The receipt with the figures of real models."""
    report = receipt.report
    report = replace(
        report,
        figures={**report.figures, **found.figures},
        settings={**report.settings, **found.facts},
        more={**report.more, "real": found.comparison.facts()},
    )
    return Receipt(report, receipt.curves, found.comparison)
