"""Mixed councils, votes, architects, merged answers, formats: what `options` make of a deliberation."""

from collections import Counter
from typing import Any

import pytest

from fleet.deliberation.conclusion import complete_partial
from fleet.deliberation.machine import due
from fleet.deliberation.rating import faults
from fleet.deliberation.state import Deliberation
from fleet.messages import (
    AgentCompleted,
    AgentFailed,
    AgentRequested,
    AgentResponse,
    AllFailed,
    Check,
    Policy,
    Scorecard,
)
from tests.support.agents import answer, by_author, failure
from tests.support.council import NOW, begin, calls, completed, phases, run_to_end


def test_mixed_council_takes_the_roles_in_turn() -> None:
    """Each agent answers in its role, numbered within it; the result names it."""
    result, asked = completed(roles=("DEV", "QA", "ARCHITECT"), num_agents=4, rounds=0)
    proposing = [(call.agent_id, call.role) for call in asked if call.phase == "propose"]
    assert proposing == [
        ("agent-dev-001", "DEV"),
        ("agent-qa-001", "QA"),
        ("agent-architect-001", "ARCHITECT"),
        ("agent-dev-002", "DEV"),
    ]
    assert {ranked.agent_id: ranked.role for ranked in result.results} == dict(proposing)


def test_models_are_taken_in_turn() -> None:
    """`options.models`: every call of an agent goes to its model; without it the role's model is used."""
    _, asked = completed(models=("x", "y"), num_agents=3, rounds=1)
    models: dict[str, set[str | None]] = {}
    for call in asked:
        models.setdefault(call.agent_id, set()).add(call.model)
    assert models == {"agent-dev-001": {"x"}, "agent-dev-002": {"y"}, "agent-dev-003": {"x"}}
    _, asked = completed(num_agents=3)
    assert {call.model for call in asked} == {None}


def test_preference_for_the_own_model_is_corrected() -> None:
    """Judges add 3 points to what their own model wrote; the best proposal, of the smaller camp, wins still."""

    def judge(call: AgentRequested, author: str) -> float:
        family = {1: "x", 2: "y", 3: "x", 4: "y", 5: "x"}
        own = family[int(call.agent_id[-1])] == family[int(author[-1])]
        quality = {1: 5.0, 2: 5.5, 3: 4.0, 4: 3.0, 5: 4.5}[int(author[-1])]
        return quality + 3.0 * own

    result, _ = completed(lambda call: answer(call, judge=judge), models=("x", "y"), num_agents=5, rounds=0)
    raw = {r.agent_id: sum(v.score or 0 for v in r.reviews) / len(r.reviews) for r in result.results}
    assert max(raw, key=lambda agent: raw[agent]) == "agent-dev-001"
    assert result.winner_id == "agent-dev-002"
    assert result.ranking.effects["same_model"] > 1


def test_vote_takes_the_place_of_scoring() -> None:
    """`selection: vote`: one vote each, as many calls, no scores; the votes are in the result."""
    result, asked = completed(selection="vote", num_agents=3, rounds=1)
    assert phases(asked) == ["propose", "critique 1", "revise 1", "vote"]
    assert len(asked) == 3 * 4
    assert (result.winner_id, result.ranking.method) == ("agent-dev-003", "vote")
    assert {ranked.agent_id: ranked.votes for ranked in result.results} == {
        "agent-dev-003": 2,
        "agent-dev-002": 1,
        "agent-dev-001": 0,
    }
    assert {ranked.score for ranked in result.results} == {None}
    assert all(given.reviewer_id not in given.order for given in result.comparisons)


def test_two_who_can_only_vote_for_each_other_are_no_verdict() -> None:
    """The confidence is one half, and the text's hash decides."""
    result, _ = completed(selection="vote", num_agents=2, rounds=0)
    assert (result.confidence, result.margin, result.ranking.decided_by) == (0.5, 0.0, "text_hash")


def test_checks_alone_ask_nobody() -> None:
    """`selection: checks`: no call beyond the proposals; who failed a check comes last; no score, no confidence."""

    def answerer(call: AgentRequested) -> AgentResponse:
        response = answer(call)
        assert isinstance(response, AgentCompleted)
        broken = Check(status="failed", findings=("line 1: no JSON",))
        return response.change(checks={"json": broken}) if call.agent_id == "agent-dev-001" else response

    result, asked = completed(answerer, selection="checks", num_agents=3, rounds=0)
    assert phases(asked) == ["propose"]
    assert result.results[-1].agent_id == "agent-dev-001"
    assert {ranked.score for ranked in result.results} == {None}
    assert (result.ranking.method, result.ranking.decided_by, result.confidence) == ("checks", "text_hash", 0.0)
    assert set(result.ranking.tied) == {"agent-dev-002", "agent-dev-003"}


def test_checks_end_after_the_last_round() -> None:
    """The rounds are run, and reported, all the same."""
    result, asked = completed(selection="checks", num_agents=3, rounds=1)
    assert phases(asked) == ["propose", "critique 1", "revise 1"]
    assert (result.rounds_run, result.stop_reason) == (1, "all_rounds")


def choosing(favourite: str | None) -> Any:
    """An architect that always wants one, or (None) always the first that it is shown."""

    def answerer(call: AgentRequested) -> AgentResponse:
        if call.phase != "choose":
            return answer(call)
        shown = list(call.labels.values())
        return answer(call, judge=lambda _, author: float(author == (favourite or shown[0])))

    return answerer


def test_architect_chooses_among_the_best() -> None:
    """Asked twice, in opposite orders, outside the council; its choice comes first, the others keep their order."""
    result, asked = completed(choosing("agent-dev-003"), selection="architect", num_agents=5, rounds=0, top_k=3)
    choices = [call for call in asked if call.phase == "choose"]
    assert [(call.agent_id, call.role, call.question) for call in choices] == [
        ("agent-architect-001", "ARCHITECT", 1),
        ("agent-architect-001", "ARCHITECT", 2),
    ]
    first, second = (list(call.labels.values()) for call in choices)
    assert first == second[::-1]
    assert set(first) == {"agent-dev-005", "agent-dev-004", "agent-dev-003"}
    assert [ranked.agent_id[-1] for ranked in result.results] == ["3", "5", "4", "2", "1"]
    assert result.selection is not None
    assert (result.selection.chosen, result.selection.contradicted) == ("agent-dev-003", False)
    assert result.ranking.decided_by == "architect"
    # Points behind the next one, and no reviewer put it higher: said as it is.
    assert result.margin == pytest.approx(-2.0, abs=0.01)
    assert result.confidence == 0.0


def test_nobody_asked_no_selection() -> None:
    """One agent alone: there is nothing to choose among, and no architect is named."""
    result, _ = completed(selection="architect", num_agents=1)
    assert result.selection is None


def test_architect_of_a_council_with_architects_is_another_one() -> None:
    """It has written nothing that it chooses among."""
    _, asked = completed(choosing("agent-architect-001"), role="ARCHITECT", selection="architect", num_agents=2)
    assert {call.agent_id for call in asked if call.phase == "choose"} == {"agent-architect-003"}


def test_contradiction_leaves_the_ranking_standing() -> None:
    """An architect that chooses whatever stands first has chosen nothing."""
    result, _ = completed(choosing(None), selection="architect", num_agents=4, rounds=0)
    assert result.winner_id == "agent-dev-004"
    assert result.selection is not None
    assert (result.selection.chosen, result.selection.contradicted) == (None, True)
    assert not result.degraded


def test_architect_that_fails_leaves_the_ranking_standing() -> None:
    """One of its two answers is missing: no choice, and degraded."""
    answerer = choosing("agent-dev-001")
    result, _ = completed(
        lambda call: failure(call) if (call.phase, call.question) == ("choose", 2) else answerer(call),
        selection="architect",
        num_agents=3,
        rounds=0,
    )
    assert (result.winner_id, result.degraded) == ("agent-dev-003", True)
    assert result.failed_agents[0].agent_id == "agent-architect-001"


def test_nothing_is_merged_after_an_architect_that_met_the_deadline() -> None:
    """It is no member of the council, and its time is the task's all the same."""

    def late(call: AgentRequested) -> AgentResponse:
        return failure(call).change(error_type="DeadlineExceeded") if call.phase == "choose" else answer(call)

    result, asked = completed(late, selection="architect", num_agents=3, rounds=0, synthesis=True)
    assert phases(asked)[-1] == "choose"
    assert (result.winner_id, result.synthesis) == ("agent-dev-003", None)


def test_architect_rubric_reaches_the_architect_alone() -> None:
    """In the prompts of the choice, and in no other."""
    _, asked = completed(selection="architect", architect_rubric="Could two people run it?", num_agents=3)
    told = {call.phase for call in asked if any("two people" in message.content for message in call.messages)}
    assert told == {"choose"}


def tied_pair(call: AgentRequested, author: str) -> float:
    """2 and 3 are even for everybody; whoever compares them prefers 2."""
    if call.phase == "compare":
        return float(author.endswith("2"))
    return 8.0 if author[-1] in "23" else 5.0


def test_tie_for_the_first_place_is_compared_in_both_orders() -> None:
    """By those who wrote neither; their verdict decides, and stands in the result."""
    result, asked = completed(lambda call: answer(call, judge=tied_pair), num_agents=4, rounds=0)
    comparing = [call for call in asked if call.phase == "compare"]
    assert {call.agent_id for call in comparing} == {"agent-dev-001", "agent-dev-004"}
    for reviewer in ("agent-dev-001", "agent-dev-004"):
        one, other = (list(call.labels.values()) for call in comparing if call.agent_id == reviewer)
        assert one == other[::-1]
    assert len({call.slot for call in comparing}) == 4
    assert (result.winner_id, result.ranking.decided_by) == ("agent-dev-002", "comparison")
    assert set(result.ranking.tied) == {"agent-dev-002", "agent-dev-003"}
    assert len(result.comparisons) == 4


def test_synthesis_stands_beside_the_ranking() -> None:
    """The winner merges the best into one text; the ranking and its winner stay as they are."""
    plain, _ = completed(num_agents=4, rounds=0)
    result, asked = completed(num_agents=4, rounds=0, synthesis=True, top_k=2)
    (call,) = (call for call in asked if call.phase == "synthesise")
    assert call.agent_id == plain.winner_id
    assert result.results == plain.results
    assert result.synthesis is not None
    assert result.synthesis.sources == ("agent-dev-004", "agent-dev-003")


@pytest.mark.parametrize(("favourite", "better"), [("synthesis", True), ("agent-dev-004", False), (None, False)])
def test_synthesis_is_judged_against_the_winner(favourite: str | None, better: bool) -> None:
    """By others than its author, in both orders; who follows the order (None) has not found it better."""

    def answerer(call: AgentRequested) -> AgentResponse:
        if call.phase != "compare":
            return answer(call)
        shown = list(call.labels.values())
        assert set(shown) == {"agent-dev-004", "synthesis"}
        assert "synthesise 0 by agent-dev-004" in call.messages[-1].content
        return answer(call, judge=lambda _, author: float(author == (favourite or shown[0])))

    result, asked = completed(answerer, num_agents=4, rounds=0, synthesis=True)
    comparing = [call for call in asked if call.phase == "compare"]
    assert len(comparing) == 6
    assert "agent-dev-004" not in {call.agent_id for call in comparing}
    assert result.synthesis is not None
    assert (result.winner_id, result.synthesis.better) == ("agent-dev-004", better)


def test_a_tie_and_a_synthesis_are_compared_under_different_ids() -> None:
    """Both by `compare` calls of one round: no message id twice, so that no stream takes one for a repetition."""
    _, asked = completed(lambda call: answer(call, judge=tied_pair), num_agents=5, rounds=0, synthesis=True)
    ids = [call.msg_id for call in asked]
    assert len(set(ids)) == len(ids)
    assert len({call.question for call in asked if call.phase == "compare"}) > 2


def test_failed_synthesis_is_owned_up_to() -> None:
    """The ranking is complete, the merged text is absent, and the result is degraded."""
    result, _ = completed(
        lambda call: failure(call) if call.phase == "synthesise" else answer(call), synthesis=True, rounds=0
    )
    assert (result.synthesis, result.degraded) == (None, True)


SCHEMA = {"type": "object", "properties": {"limit": {"type": "integer"}}, "required": ["limit"]}


def test_output_schema_binds_proposals_and_revisions() -> None:
    """It goes with every call that writes a proposal, and no other; a decline, which it cannot say, is not offered."""
    _, asked = completed(output_schema=SCHEMA, num_agents=3, rounds=1, synthesis=True)
    assert {call.phase for call in asked if call.answer_schema == SCHEMA} == {"propose", "revise"}
    assert not any("DECLINE" in call.messages[-1].content for call in asked)


def broken(call: AgentRequested) -> AgentFailed:
    return failure(call).change(error="$: limit is missing", error_type="InvalidAnswer")


def test_proposal_that_breaks_the_format_is_disqualified() -> None:
    """With the reason; the others go on."""
    result, _ = completed(
        lambda call: broken(call) if call.agent_id.endswith("1") else answer(call),
        output_schema=SCHEMA,
        num_agents=3,
        rounds=0,
    )
    assert [(out.agent_id, out.reason) for out in result.disqualified] == [("agent-dev-001", "$: limit is missing")]
    assert result.missing == ("agent-dev-001",)


def test_council_without_a_valid_proposal_fails_and_says_who_was_disqualified() -> None:
    """FAILED, every agent named."""
    state, _ = run_to_end(begin(output_schema=SCHEMA, num_agents=2), broken)
    assert isinstance(state.result, AllFailed)
    assert len(state.result.disqualified) == 2


def test_policy_goes_to_those_who_check_proposals() -> None:
    """The worker that writes a proposal checks it; every prompt names the policy."""
    policy = Policy(required=("rollback",), forbidden=("guesswork",))
    _, asked = completed(policy=policy, num_agents=2, rounds=1)
    assert {call.phase for call in asked if call.policy == policy} == {"propose", "revise"}
    assert all("must not match: guesswork" in call.messages[0].content for call in asked)


def test_failed_checks_weigh_in_and_are_in_the_result() -> None:
    """One point less for each, of the checks of the text that stands."""

    def answerer(call: AgentRequested) -> AgentResponse:
        response = answer(call, judge=lambda *_: 8.0)
        if isinstance(response, AgentCompleted) and response.proposal and call.agent_id.endswith("2"):
            bad = Check(status="failed", findings=("block 1, line 2: undefined name `x`",))
            return response.change(checks={"python": bad, "json": Check(status="passed")})
        return response

    result, _ = completed(answerer, num_agents=3, rounds=0)
    last = result.results[-1]
    assert (last.agent_id, last.penalty, last.score) == ("agent-dev-002", 1.0, 7.0)
    assert last.checks["python"].findings
    assert result.results[0].penalty == 0.0


def test_requirements_are_covered_when_most_reviewers_say_so() -> None:
    """Coverage is what reviewers say of each requirement; an unmet one is a failed check that names it."""

    def answerer(call: AgentRequested) -> AgentResponse:
        response = answer(call, judge=lambda *_: 8.0)
        if isinstance(response, AgentCompleted) and response.scores is not None:
            cards = tuple(
                Scorecard(
                    author_id=card.author_id,
                    criteria=card.criteria,
                    requirements_met=(True, not card.author_id.endswith("1")),
                )
                for card in response.scores
            )
            return response.change(scores=cards)
        return response

    result, asked = completed(answerer, num_agents=3, rounds=0, requirements=("is fast", "survives a restart"))
    assert all("R2. survives a restart" in call.messages[0].content for call in asked)
    by_agent = {ranked.agent_id: ranked.checks["requirements"] for ranked in result.results}
    assert by_agent["agent-dev-001"].status == "failed"
    assert by_agent["agent-dev-001"].findings == ("R2 is not met, say 2 of 2 reviewers: survives a restart",)
    assert by_agent["agent-dev-002"].status == "passed"
    plain, _ = completed(rounds=0)
    assert plain.results[0].checks["requirements"].status == "not_applicable"


def test_requirements_count_in_proportion() -> None:
    """Two points for missing all of them, half of that for half."""

    def missing(call: AgentRequested) -> AgentResponse:
        response = answer(call, judge=lambda *_: 8.0)
        if isinstance(response, AgentCompleted) and response.scores is not None:
            met = {"1": (True, True, True, True), "2": (True, True, True, False), "3": (False, False, False, False)}
            cards = tuple(card.change(requirements_met=met[card.author_id[-1]]) for card in response.scores)
            return response.change(scores=cards)
        return response

    result, _ = completed(missing, num_agents=3, rounds=0, requirements=("a", "b", "c", "d"))
    assert [(ranked.agent_id[-1], ranked.penalty) for ranked in result.results] == [("1", 0.0), ("2", 0.5), ("3", 2.0)]


@pytest.mark.parametrize("fault", ["truncated", "check", "empty", "opener", "short"])
def test_nothing_bad_wins_in_silence(fault: str) -> None:
    """Praised by all and yet behind all others: a text that is cut, breaks a check, or is none. The result says why."""
    texts = {"empty": "...", "opener": "Thought process:", "short": "Yes, of course."}

    def answerer(call: AgentRequested) -> AgentResponse:
        response = answer(call, judge=lambda _, author: 9.0 if author.endswith("2") else float(author[-1]))
        if not isinstance(response, AgentCompleted) or response.proposal is None:
            return response
        proposal = response.proposal.change(content=f"{call.agent_id} says " + "what to do " * 40)
        if call.agent_id.endswith("2"):
            broken = {"python": Check(status="failed", findings=("block 1, line 3: unexpected indent",))}
            checks = broken if fault == "check" else {}
            content = texts.get(fault, proposal.content)
            proposal = proposal.change(truncated=fault == "truncated", content=content)
            return response.change(proposal=proposal, checks=checks)
        return response.change(proposal=proposal)

    result, _ = completed(answerer, num_agents=3, rounds=0, accept_truncated=True)
    last = result.results[-1]
    assert (last.agent_id, last.p_best, result.ranking.decided_by) == ("agent-dev-002", 0.0, "checks")
    assert any(check.status == "failed" and check.findings for check in last.checks.values())


def test_findings_are_shown_to_the_author_and_to_the_reviewers() -> None:
    """In frames of their own, beside the proposal that they are about."""
    finding = "block 1, line 3: unexpected indent"

    def answerer(call: AgentRequested) -> AgentResponse:
        response = answer(call)
        if isinstance(response, AgentCompleted) and response.proposal and call.agent_id.endswith("2"):
            return response.change(checks={"python": Check(status="failed", findings=(finding,))})
        return response

    _, asked = completed(answerer, num_agents=3, rounds=1)
    for call in asked:
        told = f"python: {finding}" in call.messages[-1].content
        about_it = call.agent_id.endswith("2") if call.phase == "revise" else "agent-dev-002" in call.labels.values()
        assert told == about_it
        assert ("<findings" in call.messages[-1].content) == about_it


def test_identical_texts_are_one_proposal() -> None:
    """The copy stands behind its original, with its score; the chance is that of the text, and a note counts."""

    def answerer(call: AgentRequested) -> AgentResponse:
        same = call.phase == "propose" and call.agent_id[-1] in "24"
        return answer(call, text="the same idea" if same else None)

    result, _ = completed(answerer, num_agents=4, rounds=0)
    by_agent = {ranked.agent_id[-1]: ranked for ranked in result.results}
    assert by_agent["4"].same_as == "agent-dev-002"
    assert by_agent["4"].score == by_agent["2"].score
    assert by_agent["4"].rank == by_agent["2"].rank + 1
    assert by_agent["4"].p_best is None
    assert sum(ranked.p_best or 0 for ranked in result.results) == pytest.approx(1, abs=1e-3)
    assert result.notes == ("1 of 4 proposals are copies of others, and count once",)


def test_a_server_that_answers_from_its_cache_is_noticed() -> None:
    """Every agent wrote the same: nothing to choose, and the result says what that may mean."""
    result, _ = completed(lambda call: answer(call, text="the same idea"), num_agents=3, rounds=0)
    assert "cache" in result.notes[0]
    assert result.winner_id == "agent-dev-001"
    assert [ranked.same_as for ranked in result.results] == [None, "agent-dev-001", "agent-dev-001"]


def test_default_rubric_is_the_roles() -> None:
    """Where the request has none; its own wins."""
    from fleet.deliberation.events import Requested
    from fleet.deliberation.machine import decide
    from fleet.requests.task import Task
    from tests.support.council import NOW

    role = {"soundness": 2.0}
    asked = decide(None, Requested("t", Task(task_description="x"), 1, NOW, rubric=role))
    assert "soundness (weight 2)" in calls(asked)[0].messages[0].content
    own = decide(None, Requested("t", Task(task_description="x", rubric={"cost": 1.0}), 1, NOW, rubric=role))
    assert "cost (weight 1)" in calls(own)[0].messages[0].content


@pytest.mark.parametrize(
    "options",
    [
        {"selection": "architect", "synthesis": True},
        {"selection": "vote", "synthesis": True},
        {"tie_margin": 10.0, "synthesis": True},
    ],
)
def test_what_is_due_survives_a_crash_in_every_phase(options: dict[str, Any]) -> None:
    """In each phase the outbox of the state is what was published when the phase began, less what was answered."""
    decision = begin(num_agents=4, rounds=1, **options)
    while not decision.state.ended:
        pending = calls(decision)
        assert due(decision.state) == decision.outbox
        assert len({call.msg_id for call in pending}) == len(pending)
        for number, call in enumerate(pending, start=1):
            decision_after, _ = run_one(decision.state, call)
            if number < len(pending):
                open_calls = [effect.request for effect in due(decision_after) if hasattr(effect, "request")]
                assert open_calls == pending[number:]
            decision = type(decision)(decision_after, due(decision_after))


def run_one(state: Any, call: AgentRequested) -> tuple[Any, Any]:
    from tests.support.council import respond

    decision = respond(state, answer(call, judge=by_author))
    return decision.state, decision.outbox


@pytest.mark.parametrize("selection", ["score", "vote", "checks", "architect"])
def test_the_end_examines_each_text_once(monkeypatch: pytest.MonkeyPatch, selection: str) -> None:
    """Its checks, and whether it is another one's copy: texts are long, and there may be sixteen of them."""
    read: Counter[tuple[str, str]] = Counter()

    def count(name: str) -> None:
        original = getattr(faults, name)

        def counting(state: Deliberation, agent: str, *more: Any) -> Any:
            read[name, agent] += 1
            return original(state, agent, *more)

        monkeypatch.setattr(faults, name, counting)

    state, _ = run_to_end(begin(num_agents=4, rounds=1, selection=selection))
    for name in ("_plain", "_text"):
        count(name)
    complete_partial(state, NOW)
    assert read == {(name, agent): 1 for name in ("_plain", "_text") for agent in state.candidates}
