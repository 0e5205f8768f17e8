"""Calls are spent where the verdict is open: gates, fewer judges, second readings."""

from typing import Any

import pytest

from fleet.messages import AgentRequested, AgentResponse
from tests.support.agents import answer
from tests.support.council import completed, phases


def clear(call: AgentRequested, author: str) -> float:
    return 9.0 if author.endswith("2") else 5.0


def close(call: AgentRequested, author: str) -> float:
    return 6.0 if author.endswith("2") else 5.8


def by(judge: Any) -> Any:
    def answerer(call: AgentRequested) -> AgentResponse:
        return answer(call, judge=judge)

    return answerer


def test_a_settled_first_critique_is_the_verdict() -> None:
    """Two calls an agent: the critiques' scores are the final ones, and every number is in the result."""
    result, asked = completed(by(clear), num_agents=5, rounds=3, gate=True)
    assert phases(asked) == ["propose", "critique 1"]
    assert len(asked) == 10
    assert (result.winner_id, result.stop_reason, result.rounds_run) == ("agent-dev-002", "leader_settled", 0)
    assert not result.degraded
    best = result.results[0]
    assert best.p_best is not None
    assert best.p_best >= 0.8
    assert [review.score for review in best.reviews] == [9.0] * 4
    adjusted = [review.adjusted for review in best.reviews]
    assert None not in adjusted
    assert best.score == pytest.approx(sum(value or 0 for value in adjusted) / 4, abs=1e-3)


def test_an_open_critique_is_gone_on_from() -> None:
    """Nobody leads: all rounds are run, and the final scores are asked for."""
    result, asked = completed(by(close), num_agents=5, rounds=2, gate=True)
    assert phases(asked)[-1] == "score"
    assert result.rounds_run == 2


@pytest.mark.parametrize("more", [{"requirements": ("is fast",)}, {"selection": "vote"}, {"gate": False}], ids=str)
def test_the_gate_needs_a_verdict_of_scores_alone(more: dict[str, Any]) -> None:
    """Critics say nothing of requirements, and give no votes; and it is asked for."""
    _, asked = completed(by(clear), **{"num_agents": 5, "rounds": 1, "gate": True, **more})
    assert phases(asked)[:3] == ["propose", "critique 1", "revise 1"]


def test_an_architect_still_chooses_after_the_gate() -> None:
    """Among the best by the critiques."""
    result, asked = completed(by(clear), num_agents=5, rounds=1, gate=True, selection="architect")
    assert phases(asked) == ["propose", "critique 1", "choose"]
    assert result.selection is not None


def test_fewer_judges_read_each_and_more_of_them_the_best() -> None:
    """Two readers for each of eight, each proposal once at each place; then three more for the best three."""
    result, asked = completed(by(lambda _, author: float(author[-1])), num_agents=8, rounds=0, judges_per_proposal=2)
    first = [call for call in asked if call.phase == "score" and call.question == 1]
    second = [call for call in asked if call.phase == "score" and call.question == 2]
    for place in range(2):
        assert len({list(call.labels.values())[place] for call in first}) == 8
    assert all(len(call.labels) == 2 for call in first)
    read = [author for call in second for author in call.labels.values()]
    assert sorted(read) == sorted(f"agent-dev-00{number}" for number in (6, 7, 8) for _ in range(3))
    assert all(call.agent_id not in call.labels.values() for call in second)
    by_agent = {ranked.agent_id[-1]: ranked for ranked in result.results}
    assert [len(by_agent[number].reviews) for number in "1678"] == [2, 5, 5, 5]
    assert {review.reading for review in by_agent["8"].reviews} == {1, 2}
    for ranked in result.results:
        assert len({review.reviewer_id for review in ranked.reviews}) == len(ranked.reviews)
    assert result.winner_id == "agent-dev-008"


def test_fewer_judges_criticise_each() -> None:
    """Critiques, too; an author revises by those it got."""
    _, asked = completed(num_agents=6, rounds=1, judges_per_proposal=2, early_stop=False)
    assert {len(call.labels) for call in asked if call.phase == "critique"} == {2}
    assert {call.messages[-1].content.count("<critique ") for call in asked if call.phase == "revise"} == {2}


def test_an_open_verdict_is_read_again_in_reversed_order() -> None:
    """By all, once; the mean of both readings counts, and both are in the result."""

    def judge(call: AgentRequested, author: str) -> float:
        return close(call, author) + 2.0 * (call.question == 2 and author.endswith("3"))

    result, asked = completed(by(judge), num_agents=4, rounds=0, second_reading=True)
    scoring = [call for call in asked if call.phase == "score"]
    assert len(scoring) == 8
    for reviewer in {call.agent_id for call in scoring}:
        one, other = (list(call.labels.values()) for call in scoring if call.agent_id == reviewer)
        assert one == other[::-1]
    assert result.winner_id == "agent-dev-003"
    third = result.results[0]
    assert sorted(review.reading for review in third.reviews) == [1, 1, 1, 2, 2, 2]
    assert {review.adjusted for review in third.reviews} != {None}
    assert third.score == pytest.approx(6.8, abs=0.1)


def test_a_settled_verdict_is_not_read_again() -> None:
    """One call an agent is enough."""
    _, asked = completed(by(clear), num_agents=5, rounds=0, second_reading=True)
    assert len([call for call in asked if call.phase == "score"]) == 5
