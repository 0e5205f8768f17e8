"""When another round is not worth its calls, and what the result says of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.deliberation.stopping import similarity
from fleet.messages import DECLINE, AgentCompleted, AgentRequested, AgentResponse, Check, DeliberationCompleted
from tests.support.agents import answer, failure
from tests.support.council import NOW, begin, completed, phases, run_to_end

FIVE = {"num_agents": 5, "rounds": 3}


def divided(call: AgentRequested, author: str) -> float:
    """Every reviewer prefers the agent after it: no leader, and scores close together."""
    return 6.0 if int(author[-1]) == int(call.agent_id[-1]) % 5 + 1 else 5.0


def unanimous(call: AgentRequested, author: str) -> float:
    """Every reviewer puts the last agent 4 points above all others."""
    return 9.0 if author.endswith("5") else 5.0


def by_unanimous(call: AgentRequested) -> AgentResponse:
    return answer(call, judge=unanimous)


def by_divided(call: AgentRequested) -> AgentResponse:
    return answer(call, judge=divided)


def test_unanimous_first_votes_stop_before_the_second_round() -> None:
    """Five agents of one mind: one round, no more calls than that, and the result says why."""
    result, asked = completed(by_unanimous, **FIVE)
    assert phases(asked) == ["propose", "critique 1", "revise 1", "score"]
    assert len(asked) == 20
    assert (result.rounds_run, result.stop_reason) == (1, "leader_settled")
    assert "agent-dev-005" in result.stop_explanation
    assert not result.degraded


def test_reviewers_who_see_no_difference_settle_nothing() -> None:
    """The same score for everybody from everybody: nobody is likelier the best than others."""
    result, _ = completed(lambda call: answer(call, judge=lambda *_: 8.0), **FIVE)
    assert (result.rounds_run, result.stop_reason) == (3, "all_rounds")
    assert {ranked.p_best for ranked in result.results} == {0.2}


def test_divided_council_runs_on() -> None:
    """While the verdict is open and the texts move, all rounds are run."""
    result, asked = completed(by_divided, **FIVE)
    assert (result.rounds_run, result.stop_reason) == (3, "all_rounds")
    assert len([call for call in asked if call.phase != "compare"]) == 5 * (2 + 2 * 3)


def test_early_stop_false_runs_every_round() -> None:
    """However clear the leader is."""
    result, asked = completed(by_unanimous, **FIVE, early_stop=False)
    assert (result.rounds_run, result.stop_reason, len(asked)) == (3, "all_rounds", 5 * (2 + 2 * 3))


def test_first_round_is_never_skipped() -> None:
    """Neither votes nor a budget that only just holds keep the first round from being run."""
    result, _ = completed(num_agents=5, rounds=1, max_total_tokens=10_000)
    assert (result.rounds_run, result.stop_reason) == (1, "all_rounds")


def test_texts_that_do_not_move_stop() -> None:
    """Every author keeps its text, or nearly: no further round."""
    same = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    result, _ = completed(lambda call: answer(call, judge=divided, text=f"{same} {call.agent_id}"), **FIVE)
    assert (result.rounds_run, result.stop_reason) == (1, "no_movement")
    assert all(value == 1.0 for value in result.rounds[0].similarity.values())


def test_declined_revisions_do_not_move() -> None:
    """A decline with a reason keeps the text, and is in the result."""

    def declining(call: AgentRequested) -> AgentResponse:
        response = by_divided(call)
        if call.phase == "revise" and isinstance(response, AgentCompleted):
            assert DECLINE in call.messages[-1].content
            return response.change(proposal=None, declined="They are wrong.")
        return response

    result, _ = completed(declining, **FIVE)
    assert (result.rounds_run, result.stop_reason) == (1, "no_movement")
    assert not result.degraded
    for ranked in result.results:
        assert ranked.proposal.revisions == 0
        assert [(declined.round, declined.reason) for declined in ranked.declined] == [(1, "They are wrong.")]


def test_one_agent_that_still_moves_keeps_the_rounds_going() -> None:
    """Not the average but every proposal must have come to rest."""
    same = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"

    def answerer(call: AgentRequested) -> AgentResponse:
        return by_divided(call) if call.agent_id.endswith("1") else answer(call, judge=divided, text=same)

    result, _ = completed(answerer, **FIVE)
    assert result.rounds_run == 3


def test_votes_that_were_not_given_settle_nothing() -> None:
    """All but one critique failed: one reviewer alone is not unanimous."""

    def answerer(call: AgentRequested) -> AgentResponse:
        failing = call.phase == "critique" and not call.agent_id.endswith("1")
        return failure(call) if failing else by_divided(call)

    result, _ = completed(answerer, num_agents=5, rounds=2)
    assert result.stop_reason == "all_rounds"


@pytest.mark.parametrize("early_stop", [True, False])
def test_token_budget_stops_the_rounds_before_it_is_passed(early_stop: bool) -> None:
    """With 8 tokens a call, 40 a phase: 240 carry one more round and the scoring, 239 do not."""
    enough, _ = completed(by_divided, num_agents=5, rounds=2, max_total_tokens=240, early_stop=early_stop)
    assert enough.rounds_run == 2
    short, asked = completed(by_divided, num_agents=5, rounds=2, max_total_tokens=239, early_stop=early_stop)
    assert (short.rounds_run, short.stop_reason) == (1, "token_budget")
    assert "239" in short.stop_explanation
    assert phases(asked)[-1] in ("score", "compare")
    assert not short.degraded


@given(st.integers(1, 400), st.integers(1, 5), st.integers(0, 3))
def test_budget_is_passed_by_no_more_than_the_calls_in_flight(budget: int, agents: int, rounds: int) -> None:
    """Once it is spent no call begins: at most one phase's calls were in flight. What is missing is owned up to."""
    state, asked = run_to_end(begin(num_agents=agents, rounds=rounds, max_total_tokens=budget), by_divided)
    result = state.result
    assert isinstance(result, DeliberationCompleted)
    used = result.usage.prompt_tokens + result.usage.completion_tokens
    last = [call for call in asked if (call.phase, call.round) == (asked[-1].phase, asked[-1].round)]
    assert used - 8 * len(last) < budget
    scored = any(call.phase == "score" for call in asked)
    if agents > 1 and not scored:
        assert (result.degraded, result.stop_reason) == (True, "token_budget")
        assert {ranked.score for ranked in result.results} == {None}


def test_deadline_that_would_not_carry_another_round_stops() -> None:
    """100 ms a call, a second for a round: with little time left it is used for the scores."""
    state, _ = run_to_end(begin(num_agents=5, rounds=5, timeout_seconds=4), by_divided, ms_per_call=100)
    assert isinstance(state.result, DeliberationCompleted)
    assert state.result.stop_reason == "deadline"
    assert state.result.results[0].score is not None
    assert not state.result.degraded


def test_rounds_report_what_they_changed() -> None:
    """Scores before and after, the leaders, the tokens, how much the texts moved."""

    def judge(call: AgentRequested, author: str) -> float:
        # Agent 1 leads by the first votes, agent 3 by all later ones.
        leader = "1" if (call.phase, call.round) == ("critique", 1) else "3"
        return divided(call, author) + 0.5 * (author[-1] == leader)

    result, _ = completed(lambda call: answer(call, judge=judge), num_agents=5, rounds=2, early_stop=False)
    first, second = result.rounds
    assert (first.leader_before, first.leader_after, first.winner_changed) == ("agent-dev-001", "agent-dev-003", True)
    assert (second.leader_before, second.winner_changed) == ("agent-dev-003", False)
    assert first.scores_after == second.scores_before
    assert second.scores_after == {ranked.agent_id: ranked.score for ranked in result.results}
    assert (first.tokens, second.tokens) == (80, 80)
    assert all(0 <= value < 1 for value in first.similarity.values())


def test_round_that_changed_no_text_changes_no_score() -> None:
    """Failed checks cost points in the result, not in the account of the rounds, which compares votes with votes."""

    def answerer(call: AgentRequested) -> AgentResponse:
        response = answer(call, judge=divided)
        if isinstance(response, AgentCompleted) and response.proposal and call.agent_id.endswith("1"):
            return response.change(checks={"json": Check(status="failed", findings=("block 1: no JSON",))})
        if call.phase == "revise" and isinstance(response, AgentCompleted):
            return response.change(proposal=None, declined="It is good.")
        return response

    result, _ = completed(answerer, num_agents=5, rounds=1)
    (only,) = result.rounds
    for agent, before in only.scores_before.items():
        assert only.scores_after[agent] == pytest.approx(before, abs=0.5)
    first = next(ranked for ranked in result.results if ranked.agent_id == "agent-dev-001")
    assert first.score == pytest.approx((only.scores_after["agent-dev-001"] or 0) - 1, abs=1e-3)


def test_no_rounds_no_reason() -> None:
    """With `rounds` 0 there was nothing to stop."""
    result, _ = completed(rounds=0)
    assert (result.rounds, result.stop_reason) == ((), None)


def test_deadline_in_the_second_round_keeps_the_first_ones_account() -> None:
    """Ended by the deadline: that is the reason, and the finished round is reported with the votes there are."""
    from fleet.deliberation.events import DeadlinePassed
    from fleet.deliberation.machine import decide
    from tests.support.council import calls, respond

    decision = begin(num_agents=3, rounds=2, early_stop=False)
    while (decision.state.phase, decision.state.round) != ("revise", 2):
        for call in calls(decision):
            decision = respond(decision.state, answer(call))
    result = decide(decision.state, DeadlinePassed(NOW + 300_000)).state.result
    assert isinstance(result, DeliberationCompleted)
    (only,) = result.rounds
    assert (result.rounds_run, result.stop_reason, result.degraded) == (1, "deadline", True)
    assert "revise" in result.stop_explanation
    assert None not in only.scores_after.values()


def test_similarity_is_the_share_of_word_pairs() -> None:
    """1 for the same words, 0 for none in common, symmetric; case and white space do not count."""
    assert similarity("Use a token bucket", "use  a\ntoken bucket") == 1.0
    assert similarity("one two three", "four five six") == 0.0
    assert similarity("a b c d", "a b c e") == pytest.approx(2 / 3, abs=1e-4)
    assert similarity("a", "a") == 1.0
    assert similarity("", "") == 1.0
