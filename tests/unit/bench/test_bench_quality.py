"""`fleet bench quality`: what it plays, what it counts, and how it says so."""

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fleet.bench import plot, report
from fleet.bench.player import play, play_at_once
from fleet.bench.quality import aggregation, receipt, strategies
from fleet.bench.quality.aggregation import Setting
from fleet.bench.quality.baselines import AGGREGATORS, borda, copeland, points, raw_mean, share_of_win
from fleet.bench.quality.council import Council
from fleet.bench.quality.strategies import STRATEGIES, affordable, agents_for
from fleet.bench.quality.tasks import final_answer, puzzles
from fleet.bench.quality.traits import BIASED, FAIR, WEAK, consistency
from fleet.cli.app import app
from fleet.deliberation.rating.scoring import Score
from fleet.errors import ConfigError
from fleet.messages import AgentRequested, AgentResponse, DeliberationCompleted
from fleet.requests.task import Task
from tests.support import agents

PERFECT = replace(FAIR, leniency_sd=0, taste_sd=0, noise_sd=0)
"""Judges that see the truth, rounded to whole points."""


def quiet(text: str) -> None:
    """Takes a note of progress."""


def won(setting: Setting, count: int, name: str) -> float:
    return sum(trial.won[name] for trial in aggregation.trials(setting, count)) / count


# --- the player -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_strategy_ends(strategy: strategies.Strategy, count: int) -> None:
    """From one agent on, and it names a winner."""
    task = strategy.task(count, task_description="x", models=BIASED.models)
    state = play_at_once(task, Council(task, BIASED, "s").answer, task_id="t")
    assert isinstance(state.result, DeliberationCompleted)
    assert state.result.winner_id in state.agents


def test_play_goes_on_after_failures_and_ends_when_all_fail() -> None:
    """A failed call is an answer like any other."""

    async def first_fails(call: AgentRequested) -> AgentResponse:
        return agents.failure(call) if call.agent_id.endswith("001") else agents.answer(call)

    async def all_fail(call: AgentRequested) -> AgentResponse:
        return agents.failure(call)

    task = Task(task_description="x", num_agents=3, rounds=1)
    some = asyncio.run(play(task, first_fails, task_id="t", clock=lambda: 0))
    none = asyncio.run(play(task, all_fail, task_id="t", clock=lambda: 0))
    assert (some.status, len(some.candidates)) == ("COMPLETED", 2)
    assert none.status == "FAILED"


def test_both_players_play_alike() -> None:
    """With the same answers, at once or awaited."""
    task = Task(task_description="x", num_agents=3, rounds=2)

    async def answer(call: AgentRequested) -> AgentResponse:
        return agents.answer(call)

    awaited = asyncio.run(play(task, answer, task_id="t", clock=lambda: 0))
    assert play_at_once(task, agents.answer, task_id="t") == awaited


# --- simulated councils -----------------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_trials_and_others_others() -> None:
    """Whatever runs in parallel."""
    setting = Setting(BIASED, 4, seed=3)
    assert aggregation.trials(setting, 8) == aggregation.trials(setting, 8)
    assert aggregation.trials(setting, 8) != aggregation.trials(replace(setting, seed=4), 8)


def test_judges_without_noise_or_bias_find_the_best() -> None:
    """Every ranking agrees with the truth, but for what whole points cannot tell apart."""
    far_apart = replace(PERFECT, quality=5, quality_sd=3)
    for name in ("ours", *AGGREGATORS):
        assert won(Setting(far_apart, 4, seed=1), 40, name) > 0.7
    assert won(Setting(far_apart, 4, seed=1), 40, "random") == pytest.approx(0.25)


@pytest.mark.slow
def test_places_that_all_judges_favour_alike_cost_nothing() -> None:
    """The orders of a phase balance each other, whatever the judges make of a place."""
    swayed, plain = (
        Setting(replace(PERFECT, quality=4, quality_sd=0.8, position_bias=bias), 5, seed=1) for bias in (4.0, 0.0)
    )
    assert won(swayed, 100, "ours") > won(plain, 100, "ours") - 0.06


def test_more_agents_leave_the_first_proposals_as_they_are() -> None:
    """So that strategies are compared on the same ones."""
    few, many = (Task(task_description="x", num_agents=count) for count in (2, 9))
    councils = [Council(task, BIASED, "same") for task in (few, many)]
    assert councils[0].quality("agent-dev-002") == councils[1].quality("agent-dev-002")


def test_an_injection_gains_points_from_obedient_judges_only() -> None:
    """And the same proposals are judged without it."""
    obedient = Setting(replace(FAIR, obedience=1), 4, seed=1)
    deaf = Setting(replace(FAIR, obedience=0), 4, seed=1)
    gained, nothing = aggregation.injection(obedient, 12), aggregation.injection(deaf, 12)
    assert gained.value is not None
    assert gained.value > 2
    assert nothing.value == 0


def test_one_obedient_reader_of_four_helps_an_injection_less_than_by_the_mean() -> None:
    """It is known how often it wins all the same: the core's clamp bounds what one reader can do, and no more."""
    wins = aggregation.injected_wins(Setting(FAIR, 5, seed=3), 60)
    assert wins.value is not None
    assert 1 / 5 < wins.value <= wins.more["raw_mean"]


@pytest.mark.slow
def test_a_reward_model_is_judged_on_the_same_judgements() -> None:
    """It changes no text and no other score; one that sees the truth finds the best more often than noisy judges do."""
    setting = Setting(replace(FAIR, noise_sd=3.0, reward_sd=0.0), 3, seed=1)
    judged = replace(setting, judges=(aggregation.JUDGE,))
    for number in range(5):
        one, other = (aggregation.completed(aggregation.played(each, number)[1]) for each in (setting, judged))
        reviews = [
            {
                (entry.agent_id, review.reviewer_id): review.score
                for entry in result.results
                for review in entry.reviews
                if review.reward is None
            }
            for result in (one, other)
        ]
        assert reviews[0] == reviews[1]
        assert other.usage.calls == one.usage.calls + 3
    figure = aggregation.reward_model(setting, aggregation.trials(setting, 80))
    assert figure.value is not None
    assert figure.baseline is not None
    assert figure.value > figure.baseline


def test_biased_judges_keep_their_verdict_as_often_as_gpt4() -> None:
    """The calibration: about 65 % in both orders."""
    assert consistency(BIASED, pairs=6000, seed=1) == pytest.approx(receipt.GPT4_CONSISTENCY, abs=0.03)
    assert consistency(PERFECT, pairs=200, seed=1) == 1


def test_weak_judges_keep_fewer_verdicts() -> None:
    """About four in ten; they stand beside the biased ones unless biases are set by hand."""
    assert consistency(WEAK, pairs=6000, seed=1) == pytest.approx(0.4, abs=0.05)
    assert [scenario.suffix for scenario in receipt.scenarios({}, {})] == ["", "_biased", "_family", "_weak"]


def test_biases_can_be_set_one_by_one() -> None:
    """Those of judges touch the biased scenario only; the spread follows the position bias."""
    fair, biased = receipt.scenarios({"noise_sd": 2.0}, {"position_bias": 3.0})
    assert (fair.traits.noise_sd, biased.traits.noise_sd) == (2.0, 2.0)
    assert (fair.traits.position_bias, biased.traits.position_bias, biased.traits.position_spread) == (0, 3.0, 1.5)


# --- baselines and statistics -----------------------------------------------------------------------------------------


def given(reviewer: str, **scores: float) -> list[Score]:
    return [
        Score(reviewer, author, score, place, len(scores)) for place, (author, score) in enumerate(scores.items(), 1)
    ]


def test_baselines_by_hand() -> None:
    """Three reviewers: one loves b, two find a a little better than b and b better than c."""
    scores = [*given("x", a=5, b=10, c=1), *given("y", a=6, b=5, c=4), *given("z", a=6, b=5, c=5)]
    assert raw_mean(scores) == pytest.approx({"a": 17 / 3, "b": 20 / 3, "c": 10 / 3})
    assert borda(scores) == pytest.approx({"a": 5 / 6, "b": 3.5 / 6, "c": 0.5 / 6}, abs=1e-4)
    assert copeland(scores) == {"a": 2.0, "b": 1.0, "c": 0.0}
    assert [share_of_win(points(name, scores), "b") for name in AGGREGATORS] == [1, 0, 0]


def test_shared_first_places_share_the_win() -> None:
    """Two of equal points have half a win each."""
    assert [share_of_win({"a": 2, "b": 2, "c": 1}, author) for author in "abc"] == [0.5, 0.5, 0]
    assert share_of_win({}, "a") == 0


def test_ratio_of_means_has_an_error_that_shrinks_with_agreement() -> None:
    """Pairs that always agree leave nothing uncertain."""
    assert report.ratio_of_means([1, 0, 1, 1], [1, 0, 1, 1]) == (0.75, 0.75, 0.0)
    value, baseline, error = report.ratio_of_means([1, 1, 0, 1], [1, 0, 1, 1])
    assert (value, baseline) == (0.75, 0.75)
    assert error
    assert report.Figure(0.6, 0.3).ratio == pytest.approx(2)
    assert report.Figure(0.6).ratio is None
    assert report.Figure(0.6, 0.0).ratio is None


# --- equal tokens -----------------------------------------------------------------------------------------------------


def test_budgets_are_spent_on_average() -> None:
    """Between two numbers of agents tasks get the one or the other."""
    tokens = [10.0, 30.0, 60.0]
    assert [affordable(tokens, budget) for budget in (5, 10, 20, 45, 60, 99)] == [1, 1, 1.5, 2.5, 3, 3]
    counts = [agents_for(task, 2.5) for task in range(10)]
    assert (set(counts), sum(counts)) == ({2, 3}, 25)


@pytest.mark.slow
def test_strategies_use_about_equal_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the single answer, which has no use for more."""
    monkeypatch.setattr(strategies, "BUDGET_AGENTS", (4,))
    comparison = strategies.compare(replace(FAIR, critic_skill=1), 20, seed=1)
    for point in comparison.points:
        if point.strategy not in ("single", "early_stop"):
            assert point.tokens == pytest.approx(point.budget, rel=0.15)


# --- verifiable tasks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("puzzle", puzzles(30, seed=5), ids=lambda puzzle: puzzle.kind)
def test_checkers_take_the_answer_and_no_other(puzzle: object) -> None:
    """In the forms that models give it."""
    from fleet.bench.quality.tasks import Puzzle

    assert isinstance(puzzle, Puzzle)
    for form in ("Answer: {}", "We add.\n\n**Answer:** {}.", "Answer: 17\nNo.\nANSWER: `{}`", "- answer: **{}**"):
        assert puzzle.solved_by(form.format(puzzle.answer)), form
        assert not puzzle.solved_by(form.format(puzzle.wrong)), form
    assert not puzzle.solved_by(puzzle.answer)
    assert not puzzle.solved_by("")


def test_tasks_come_from_the_seed() -> None:
    """Equal seeds, equal tasks; each question once."""
    assert puzzles(20, seed=1) == puzzles(20, seed=1)
    assert len({puzzle.question for puzzle in puzzles(20, seed=1)}) == 20
    assert final_answer("Answer: 1,234.") == "1234"


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_json_is_one_object_with_the_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On standard output, and nothing else; the plot beside it."""
    monkeypatch.delenv("VLLM_URL", raising=False)
    monkeypatch.setattr(strategies, "BUDGET_AGENTS", (2,))
    monkeypatch.setattr(receipt, "LEAST_TASKS", 3)
    picture = tmp_path / "quality.png"
    ran = CliRunner().invoke(
        app, ["bench", "quality", "--trials", "20", "--agents", "3", "--json", "--plot", str(picture)]
    )
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    assert told["mode"] == "quality"
    assert {"best_wins_vs_best_aggregator", "best_wins_vs_best_aggregator_biased"} <= told["figures"].keys()
    for figure in told["figures"].values():
        assert {"value", "baseline", "ratio"} <= figure.keys()
        if figure["ratio"] is not None:
            assert figure["ratio"] == pytest.approx(figure["value"] / figure["baseline"], rel=0.05, abs=0.05)
    assert "standard_error" in told["figures"]["best_wins_vs_best_aggregator"]
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_model_server_that_does_not_answer_is_bad_usage() -> None:
    """Said in one line, before anything is measured."""
    nowhere = ("--vllm-url", "http://127.0.0.1:1", "--tasks", "2", "--max-seconds", "10")
    ran = subprocess.run(
        [sys.executable, "-m", "fleet.cli", "bench", "quality", *nowhere], capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "VLLM_URL: no model answers" in ran.stderr.splitlines()[-1]


def test_a_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is measured."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"deliberation-fleet\[bench\]"):
        plot.check()
