"""Judges of the settings: one more reviewer of every scored council, which proposes nothing and is counted once."""

from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fleet.deliberation.events import DeadlinePassed
from fleet.deliberation.judges.rewards import as_scores
from fleet.deliberation.machine import decide
from fleet.deliberation.rating.scoring import Score
from fleet.messages import AgentRequested, AgentResponse, Judge, Reward, TimedOut
from fleet.times import from_rfc3339
from tests.support.agents import answer, by_author, failure
from tests.support.council import NOW, begin, calls, completed, phases, respond, run_to_end
from tests.support.recompute import deviations

JUDGE = Judge(name="reward", kind="classify", model="rm", endpoint="rm-1", timeout_s=20.0)
ASKED = Judge(name="asked", kind="generative_scoring")


def alike(call: AgentRequested) -> AgentResponse:
    """Reviewers make no difference; judges do, by the number in an author's name."""
    return answer(call, judge=by_author if call.judge is not None else lambda call, author: 6.0)


def without_judge(call: AgentRequested) -> AgentResponse:
    return failure(call) if call.judge is not None else answer(call)


def test_a_judge_is_asked_once_of_each_proposal() -> None:
    """In the score phase alone, of one text each, with less time than the task has; it writes nothing."""
    result, asked = completed(judges=[JUDGE], num_agents=3, rounds=1)
    judging = [call for call in asked if call.judge is not None]
    assert [(call.phase, call.agent_id, call.question) for call in judging] == [
        ("score", "judge-reward", 1),
        ("score", "judge-reward", 2),
        ("score", "judge-reward", 3),
    ]
    assert [list(call.labels.values()) for call in judging] == [[f"agent-dev-00{n}"] for n in (1, 2, 3)]
    assert [[message.role for message in call.messages] for call in judging] == [["user", "assistant"]] * 3
    assert all(call.messages[1].content == f"revise 1 by {call.labels['A']}" for call in judging)
    assert {from_rfc3339(call.deadline_at) for call in judging} == {NOW + 1000 + 20_000}
    assert result.usage.calls == len(asked) == 12 + 3
    assert result.usage_by_model["rm"].calls == 3
    assert result.total_agents == 3
    assert not result.degraded


@pytest.mark.parametrize("task", [{"selection": "vote"}, {"selection": "checks"}, {"num_agents": 1}])
def test_a_council_that_is_not_scored_asks_no_judge(task: dict[str, Any]) -> None:
    _, asked = completed(judges=[JUDGE, ASKED], **{"num_agents": 3, **task})
    assert not any(call.judge for call in asked)


def test_a_judge_is_asked_in_no_second_reading() -> None:
    """It would say the same again."""
    _, asked = completed(alike, judges=[JUDGE], num_agents=3, rounds=0, second_reading=True)
    assert sum(call.phase == "score" and call.judge is None for call in asked) == 6
    assert sum(call.judge is not None for call in asked) == 3


def test_a_judge_decides_where_reviewers_see_no_difference() -> None:
    """Each of its reviews says what it gave, by what, and what it comes to beside the others."""
    result, _ = completed(alike, judges=[JUDGE], num_agents=3, rounds=0)
    assert result.winner_id == "agent-dev-003"
    assert result.ranking.decided_by == "score"
    reviews = [review for ranked in result.results for review in ranked.reviews if review.reward is not None]
    assert [(review.reviewer_id, review.position, review.reward) for review in reviews] == [
        ("judge-reward", 0, Reward(value=value, kind="classify", model="rm")) for value in (3.0, 2.0, 1.0)
    ]
    first, middle, last = (review.score or 0.0 for review in reviews)
    assert first - middle == pytest.approx(middle - last, abs=1e-3)
    assert middle == 6.0
    assert all(review.adjusted is not None for review in reviews)
    assert "judge-reward" in result.ranking.leniency


def test_a_judge_of_another_family_is_worth_more_than_one_more_of_the_same() -> None:
    """By what reviewers of one model are taken to share."""
    usual, _ = completed(judges=[], num_agents=3, rounds=0)
    more, _ = completed(judges=[JUDGE], num_agents=3, rounds=0)
    same, _ = completed(judges=[JUDGE.change(model="m")], num_agents=3, rounds=0)
    seen = [each.ranking.effective_reviewers or 0.0 for each in (usual, same, more)]
    assert seen == sorted(seen)
    assert seen[1] < seen[2]


@pytest.mark.parametrize("gave", [{1: 4.0, 2: 4.0, 3: 4.0}, {1: -400.0, 2: -400.5, 3: -401.0}])
def test_equal_rewards_say_nothing(gave: dict[int, float]) -> None:
    """Nor do those that differ by rounding: the ranking is the one without a judge, and nothing is degraded."""

    def answerer(call: AgentRequested) -> AgentResponse:
        return answer(call, judge=lambda call, author: gave[int(author[-1])]) if call.judge else answer(call)

    plain, _ = completed(num_agents=3, rounds=0)
    result, _ = completed(answerer, judges=[JUDGE], num_agents=3, rounds=0)
    assert result.ranking == plain.ranking
    assert [ranked.score for ranked in result.results] == [ranked.score for ranked in plain.results]
    judged = [review for ranked in result.results for review in ranked.reviews if review.reward]
    assert [(review.score, review.adjusted) for review in judged] == [(None, None)] * 3
    assert not result.degraded


def test_a_judge_that_fails_leaves_the_result_as_without_it() -> None:
    """But for what it cost: degraded, each failed call named."""
    plain, _ = completed(num_agents=3, rounds=1, requirements=("fast",))
    result, _ = completed(without_judge, judges=[JUDGE], num_agents=3, rounds=1, requirements=("fast",))
    assert result.degraded
    assert [(call.agent_id, call.phase, call.error_type) for call in result.failed_agents] == [
        ("judge-reward", "score", "ServerError")
    ] * 3
    assert result.usage.failed_calls == 3
    told = {"degraded", "failed_agents", "usage", "usage_by_model", "cost"}
    one, other = (msgspec.to_builtins(each) for each in (plain, result))
    assert {key: value for key, value in one.items() if key not in told} == {
        key: value for key, value in other.items() if key not in told
    }


def test_a_judge_that_misses_one_text_still_compares_the_others() -> None:
    def answerer(call: AgentRequested) -> AgentResponse:
        return failure(call) if call.judge and call.question == 1 else alike(call)

    result, _ = completed(answerer, judges=[JUDGE], num_agents=4, rounds=0)
    judged = {ranked.agent_id for ranked in result.results for review in ranked.reviews if review.reward}
    assert judged == {"agent-dev-002", "agent-dev-003", "agent-dev-004"}
    assert result.winner_id == "agent-dev-004"
    assert deviations(msgspec.to_builtins(result)) == []


def test_one_text_alone_says_nothing() -> None:
    def answerer(call: AgentRequested) -> AgentResponse:
        return failure(call) if call.judge and call.question > 1 else answer(call)

    plain, _ = completed(num_agents=3, rounds=0)
    result, _ = completed(answerer, judges=[JUDGE], num_agents=3, rounds=0)
    assert result.ranking == plain.ranking


@pytest.mark.parametrize("value", [1e7, -1e300, float("inf"), float("nan")])
def test_a_number_that_no_model_gives_is_no_answer(value: float) -> None:
    """Whoever sends it: the call has failed."""

    def answerer(call: AgentRequested) -> AgentResponse:
        return answer(call, judge=lambda call, author: value) if call.judge else answer(call)

    result, _ = completed(answerer, judges=[JUDGE], num_agents=2, rounds=0)
    assert {call.error_type for call in result.failed_agents} == {"MalformedResponse"}
    assert {call.error for call in result.failed_agents} == {
        f"the reward {value:g} is out of range: −1,000,000 … 1,000,000"
    }


def test_a_judge_whose_time_is_over_ends_nothing_but_its_calls() -> None:
    """The council goes on to its next phase, which the end of its own time would have kept it from."""

    def answerer(call: AgentRequested) -> AgentResponse:
        return failure(call).change(error_type="DeadlineExceeded") if call.judge else answer(call)

    result, asked = completed(answerer, judges=[JUDGE], num_agents=3, rounds=0, synthesis=True)
    assert phases(asked) == ["propose", "score", "synthesise", "compare"]
    assert result.synthesis is not None


def test_an_answer_that_comes_again_is_counted_once() -> None:
    """Redelivered, or given by two workers: the slot is filled."""
    decision = begin(judges=[JUDGE], num_agents=2, rounds=0)
    for call in calls(decision):
        decision = respond(decision.state, answer(call))
    first = next(call for call in calls(decision) if call.judge)
    once = respond(decision.state, answer(first)).state
    other = answer(first, judge=lambda call, author: 9.0).change(attempt=1001)
    assert respond(once, other).state is once
    assert once.usage == respond(once, answer(first)).state.usage


def test_the_deadline_ends_a_council_whose_judge_is_silent() -> None:
    """With the scores that there are, and the open calls named."""
    decision = begin(judges=[JUDGE], num_agents=2, rounds=0)
    for call in calls(decision):
        decision = respond(decision.state, answer(call))
    for call in calls(decision):
        if call.judge is None:
            decision = respond(decision.state, answer(call))
    ended = decide(decision.state, DeadlinePassed(NOW + 300_000)).state.result
    assert ended is not None
    assert not isinstance(ended, TimedOut)
    told = msgspec.to_builtins(ended)
    assert [call["agent_id"] for call in told["failed_agents"]] == ["judge-reward"] * 2
    assert all(entry["score"] is not None for entry in told["results"])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), agents=st.integers(2, 6))
@example(seed=5757, agents=6)  # means of 6.05 that differ in the last bit
def test_order_and_repetition_do_not_show(seed: int, agents: int) -> None:
    """However answers of reviewers and judges arrive, and as often, the event is the same, and can be worked out."""

    def answerer(call: AgentRequested) -> AgentResponse:
        chance = Random(f"{seed}/{call.call_id}")
        if call.judge is not None and chance.random() < 0.2:
            return failure(call)
        return answer(call, judge=lambda call, author: round(chance.gauss(5, 2), 1))

    fields: dict[str, Any] = {"num_agents": agents, "rounds": 0, "seed": seed}
    plain, _ = run_to_end(begin(judges=[ASKED, JUDGE], **fields), answerer)
    decision, random = begin(judges=[ASKED, JUDGE], **fields), Random(seed)
    while not decision.state.ended:
        waiting = calls(decision)
        random.shuffle(waiting)
        for call in [*waiting, *waiting[:2]]:
            decision = respond(decision.state, answerer(call))
            if calls(decision) or decision.state.ended:
                break
    told = [msgspec.to_builtins(state.result) for state in (plain, decision.state)]
    assert told[0] == told[1]
    assert deviations(told[0]) == []


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-5, 5), min_size=2, max_size=8, unique=True),
    factor=st.floats(0.01, 100),
    shift=st.floats(-1, 1),
)
def test_the_scale_of_rewards_does_not_matter(values: list[float], factor: float, shift: float) -> None:
    """Any other zero and unit gives the same scores."""
    names = [f"a{number}" for number in range(len(values))]
    council = [Score("r", name, 5.0 + number % 3, 1, len(names)) for number, name in enumerate(names)]

    def scores(told: list[float]) -> list[float]:
        rewards = {
            name: Reward(value=value, kind="classify", model="rm") for name, value in zip(names, told, strict=True)
        }
        return [one.score for one in as_scores("j", rewards, council, dict.fromkeys(names, "m"))]

    one, other = scores(values), scores([factor * value + shift for value in values])
    if one and other:  # else one of them differs by rounding alone
        assert one == pytest.approx(other, abs=2e-3)
