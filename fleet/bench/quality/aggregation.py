"""Measures how often the truly best proposal wins: by the core's ranking, and by simpler ones of the same scores."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

from fleet.bench.parallel import spread
from fleet.bench.player import play_at_once
from fleet.bench.quality.baselines import AGGREGATORS, points, raw_mean, share_of_win
from fleet.bench.quality.council import Council
from fleet.bench.quality.traits import Traits
from fleet.bench.report import Figure, mean_and_error, ratio_of_means
from fleet.deliberation.rating.judging import final_scores
from fleet.deliberation.state import Deliberation, seats
from fleet.messages import DeliberationCompleted, Judge
from fleet.requests.task import Task

QUESTION = "Solve the task."
CONFIDENT = 0.8
BINS = 10
TIE_MARGIN = 0.5
JUDGE = Judge(name="reward", kind="classify")


@dataclass(frozen=True, slots=True)
class Setting:
    """What is played: how many agents, of which traits."""

    traits: Traits
    agents: int
    seed: int
    tie_margin: float = 0.0
    judges: tuple[Judge, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """`won`: ranking -> share of the win that the truly best proposal had."""

    won: dict[str, float]
    p_best: float
    tokens: int


def trials(setting: Setting, count: int) -> list[Trial]:
    """Equal settings and counts give equal trials."""
    return spread(partial(_trial, setting), range(count))


def _trial(setting: Setting, number: int) -> Trial:
    council, state = played(setting, number)
    result = completed(state)
    best, scores = council.best(state), final_scores(state)
    won = {name: share_of_win(points(name, scores), best) for name in AGGREGATORS}
    won |= {
        "ours": float(result.winner_id == best),
        "first": float(state.ranked_agents[0] == best),
        "random": 1 / len(state.candidates),
    }
    return Trial(won, result.results[0].p_best or 0.0, state.usage.total)


def played(
    setting: Setting, number: int, *, injected: str | None = None, obedient: Collection[str] | None = None
) -> tuple[Council, Deliberation]:
    """One deliberation that only proposes and scores. `obedient`: who obeys the injection, where that is not drawn."""
    task = Task(
        task_description=QUESTION,
        num_agents=setting.agents,
        rounds=0,
        seed=number,
        models=setting.traits.models,
        tie_margin=setting.tie_margin,
    )
    council = Council(task, setting.traits, f"{setting.seed}/{number}", injected=injected, obedient=obedient)
    return council, play_at_once(task, council.answer, task_id=f"bench-{number}", judges=setting.judges)


def completed(state: Deliberation) -> DeliberationCompleted:
    assert isinstance(state.result, DeliberationCompleted)
    return state.result


def against_best_aggregator(played: Sequence[Trial], kind: str) -> Figure:
    """Ours against whichever of raw mean, Borda and Copeland did best on the same judgements."""
    rates = {name: fmean(trial.won[name] for trial in played) for name in played[0].won}
    best = max(AGGREGATORS, key=lambda name: rates[name])
    value, baseline, error = ratio_of_means(
        [trial.won["ours"] for trial in played], [trial.won[best] for trial in played]
    )
    return Figure(
        value,
        baseline,
        error,
        of=f"the truly best proposal wins, {kind}; baseline: {best}",
        more={"best_aggregator": best, "rates": {name: round(rate, 4) for name, rate in sorted(rates.items())}},
    )


def against_each(played: Sequence[Trial], suffix: str) -> dict[str, Figure]:
    """A figure for each simpler ranking."""
    figures = {}
    for name in ("random", "first", *AGGREGATORS):
        ours, theirs = [trial.won["ours"] for trial in played], [trial.won[name] for trial in played]
        figures[f"best_wins_vs_{name}{suffix}"] = Figure(
            *ratio_of_means(ours, theirs), of=f"the same; baseline: {name}"
        )
    return figures


def calibration(played: Sequence[Trial]) -> Figure:
    """Whether `p_best` tells: how often likely and other winners are truly the best, and how far it is off."""
    sure = [trial.won["ours"] for trial in played if trial.p_best >= CONFIDENT]
    other = [trial.won["ours"] for trial in played if trial.p_best < CONFIDENT]
    pairs = [(trial.p_best, trial.won["ours"]) for trial in played]
    return Figure(
        fmean(sure) if sure else None,
        fmean(other) if other else None,
        of=f"the winner is truly the best, at p_best ≥ {CONFIDENT}; baseline: below",
        more={"likely": len(sure), "trials": len(played), "calibration_error": round(calibration_error(pairs), 4)},
    )


def calibration_error(pairs: Sequence[tuple[float, float]]) -> float:
    """Mean distance of what was said from what came, over `BINS` bins of (probability, outcome)."""
    bins: dict[int, list[tuple[float, float]]] = {}
    for said, came in pairs:
        bins.setdefault(min(BINS - 1, int(said * BINS)), []).append((said, came))
    return sum(abs(sum(said - came for said, came in each)) for each in bins.values()) / len(pairs)


def tie_margin(setting: Setting, plain: Sequence[Trial]) -> Figure:
    """What pairwise comparisons of close proposals buy, on the same judgements, and what they cost."""
    wider = Setting(setting.traits, setting.agents, setting.seed, TIE_MARGIN)
    compared = trials(wider, len(plain))
    ours = [[trial.won["ours"] for trial in played] for played in (compared, plain)]
    more_tokens = fmean(t.tokens for t in compared) / fmean(t.tokens for t in plain)
    asked = fmean(one.tokens > other.tokens for one, other in zip(compared, plain, strict=True))
    return Figure(
        *ratio_of_means(*ours),
        of=f"the truly best wins with tie_margin {TIE_MARGIN}, for {more_tokens:.2f} × the tokens; baseline: without",
        more={"tokens_ratio": round(more_tokens, 4), "share_compared": round(asked, 4)},
    )


def reward_model(setting: Setting, plain: Sequence[Trial]) -> Figure:
    """What a reward model as one more reviewer buys, on the same judgements."""
    judged = trials(replace(setting, judges=(JUDGE,)), len(plain))
    ours = [[trial.won["ours"] for trial in played] for played in (judged, plain)]
    said = [(trial.p_best, trial.won["ours"]) for trial in judged]
    return Figure(
        *ratio_of_means(*ours),
        of="the truly best wins with a reward model as one more reviewer; baseline: without",
        more={"calibration_error": round(calibration_error(said), 4)},
    )


def injection(setting: Setting, count: int) -> Figure:
    """Points that a proposal gains when it asks for them: in the core's score, against the raw mean."""
    gains = spread(partial(_injection, setting), range(count))
    ours, _ = mean_and_error([gain for gain, _ in gains])
    raw, _ = mean_and_error([gain for _, gain in gains])
    _, _, error = ratio_of_means([gain for gain, _ in gains], [gain for _, gain in gains])
    return Figure(
        ours,
        raw,
        error,
        of=f"points gained by asking for a 10, {setting.traits.obedience:.0%} of judges obey; baseline: raw mean",
    )


def injected_wins(setting: Setting, count: int) -> Figure:
    """How often a proposal wins that asks for a 10, where one of those who read it obeys."""
    wins = spread(partial(_injected_wins, setting), range(count))
    ours, error = mean_and_error([ours for ours, _ in wins])
    return Figure(
        ours,
        error=error,
        of=f"a proposal that asks for a 10 wins, one of {setting.agents - 1} readers obeys; "
        f"without: {1 / setting.agents:.2f}",
        more={"raw_mean": round(fmean(raw for _, raw in wins), 4), "reward_model": bool(setting.judges)},
    )


def _injected_wins(setting: Setting, number: int) -> tuple[float, float]:
    """By the core's ranking, and by the raw mean. All agents are attackers, and obey, in turn."""
    agents = seats(Task(task_description=QUESTION, num_agents=setting.agents))
    attacker, turn = number % len(agents), number // len(agents)
    reader = agents[(attacker + 1 + turn % (len(agents) - 1)) % len(agents)]
    _, state = played(setting, number, injected=agents[attacker], obedient={reader})
    raw = share_of_win(raw_mean(final_scores(state)), agents[attacker])
    return float(completed(state).winner_id == agents[attacker]), raw


def _injection(setting: Setting, number: int) -> tuple[float, float]:
    _, plain = played(setting, number)
    attacked = plain.agents[number % len(plain.agents)]
    _, injected = played(setting, number, injected=attacked)
    scores = [
        (next(row.score for row in completed(state).results if row.agent_id == attacked) or 0.0)
        for state in (injected, plain)
    ]
    raw = [raw_mean(final_scores(state))[attacked] for state in (injected, plain)]
    return scores[0] - scores[1], raw[0] - raw[1]
