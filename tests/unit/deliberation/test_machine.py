"""The core: phases, slots, endings. Order, repetition and lateness must never show in a result."""

import dataclasses
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fleet.deliberation.events import (
    CallAgent,
    CancelAsked,
    Conclude,
    DeadlinePassed,
    Reject,
    Requested,
    Responded,
    StopCalls,
)
from fleet.deliberation.machine import Decision, decide, due, renamed
from fleet.deliberation.state import Deliberation
from fleet.messages import (
    AgentRequested,
    AgentResponse,
    AllFailed,
    DeliberationCancelled,
    DeliberationCompleted,
    TimedOut,
)
from fleet.subjects import second_id, sequence_in
from tests.support.agents import answer, by_author, failure
from tests.support.council import NOW, Answerer, begin, calls, respond, run_to_end

Slots = frozenset[tuple[str, int, str]]


def failing_at(slots: Slots) -> Answerer:
    """Answers, but fails the calls of these slots."""

    def respond_to(call: AgentRequested) -> AgentResponse:
        return failure(call) if (call.phase, call.round, call.agent_id) in slots else answer(call)

    return respond_to


@pytest.mark.parametrize(("agents", "rounds"), [(2, 0), (3, 1), (5, 2), (16, 5)])
def test_model_is_called_n_times_two_plus_two_r(agents: int, rounds: int) -> None:
    """n agents and r rounds make n · (2 + 2r) calls, and everybody is ranked."""
    state, asked = run_to_end(begin(num_agents=agents, rounds=rounds, early_stop=False))
    assert len(asked) == agents * (2 + 2 * rounds)
    assert isinstance(state.result, DeliberationCompleted)
    assert [result.rank for result in state.result.results] == list(range(1, agents + 1))
    assert state.result.rounds_run == rounds
    assert not state.result.degraded
    assert state.result.usage.calls == len(asked)


@pytest.mark.parametrize("ended", [False, True])
def test_another_task_with_the_same_id_is_rejected(ended: bool) -> None:
    """While the first one runs and after its end; the same task again, or the same message again, changes nothing."""
    state = run_to_end(begin(num_agents=1))[0] if ended else begin(num_agents=1).state
    state = state.change(run="a")
    task, sequence = state.task, state.stream_sequence
    other = task.change(task_description="Something else", correlation={"story": "S-18"})
    for again in (Requested("t-1", task, sequence + 1, NOW), Requested("t-1", other, sequence, NOW, run="a")):
        assert decide(state, again) == Decision(state)
    decision = decide(state, Requested("t-1", other, sequence + 1, NOW, traceparent="00-a"))
    assert decision.state is state
    (rejection,) = decision.outbox
    assert isinstance(rejection, Reject)
    assert (rejection.rejected.code, rejection.rejected.path, rejection.traceparent) == (
        "conflict",
        "$.task_id",
        "00-a",
    )
    assert rejection.rejected.correlation == {"story": "S-18"}


def test_another_request_with_the_same_sequence_is_another_one() -> None:
    """As after a restore of its stream: a conflict, also where it is word for word the same and nobody named the id."""
    state = run_to_end(begin(num_agents=1))[0].change(task_id="d-7", stream_sequence=7, run="a")
    for task in (state.task.change(task_description="Something else"), state.task):
        (rejection,) = decide(state, Requested("d-7", task, 7, NOW, run="b", message_id="mine")).outbox
        assert isinstance(rejection, Reject)
        assert (rejection.rejected.code, rejection.rejected.run, rejection.rejected.message_id) == (
            "conflict",
            "b",
            "mine",
        )


def test_a_request_whose_number_was_given_out_before_goes_on_under_another_one() -> None:
    """The same one for whoever asks; another request with that number has another one; and the form is kept."""
    state = run_to_end(begin(num_agents=1))[0].change(task_id="d-7", stream_sequence=7, run="a")
    again = Requested("d-7", state.task, 7, NOW, run="b")
    other = renamed(state, again)
    assert other is not None
    assert re.fullmatch(r"d-7\d{18}", other.task_id)
    assert other.task_id == second_id(7, "b")
    assert sequence_in(other.task_id) == sequence_in("d-7") == 7
    assert renamed(state, dataclasses.replace(again, run="c")) != other
    assert renamed(state, dataclasses.replace(again, run="a")) is None  # it is the one that began it
    assert renamed(state.change(task_id="mine"), dataclasses.replace(again, task_id="mine")) is None
    begun = decide(None, other).state
    assert renamed(begun, other) is None
    assert decide(begun, other) == Decision(begun)


def test_what_belongs_to_an_earlier_request_changes_nothing() -> None:
    """A task id is used again once its state is gone: answers and the deadline of the earlier one may still come."""
    state = begin(num_agents=1).state.change(run="b")
    (call,) = calls(begin(num_agents=1))
    late = answer(call).change(run="a")
    for event in (Responded(late, NOW), DeadlinePassed(NOW + 300_000, "a")):
        assert decide(state, event) == Decision(state)
    assert decide(state, Responded(late.change(run=""), NOW)).state.ended


def test_one_agent_only_proposes_and_has_no_score() -> None:
    """Alone there is nobody to review: one call, score null."""
    state, asked = run_to_end(begin(num_agents=1, rounds=3))
    assert [call.phase for call in asked] == ["propose"]
    assert isinstance(state.result, DeliberationCompleted)
    assert state.result.results[0].score is None


def test_nobody_is_shown_its_own_proposal() -> None:
    """Critique and score prompts hold everybody's proposal but the reviewer's own, and name no agent."""
    _, asked = run_to_end(begin(num_agents=4, rounds=2))
    for call in asked:
        if call.phase in ("critique", "score"):
            text = "\n".join(message.content for message in call.messages)
            assert call.agent_id not in call.labels.values()
            assert len(call.labels) == 3
            assert f"by {call.agent_id}" not in text


def test_prompts_of_one_deliberation_share_the_system_message() -> None:
    """What all calls share comes first, byte for byte."""
    _, asked = run_to_end(begin(num_agents=3, rounds=1))
    assert len({call.messages[0].content for call in asked}) == 1


def test_every_call_has_a_seed_of_its_own() -> None:
    """Seeds are offset per call."""
    _, asked = run_to_end(begin(num_agents=16, rounds=5, seed=2**63 - 1))
    assert len({call.seed for call in asked}) == len(asked)
    assert all(0 <= call.seed < 2**63 for call in asked)


def test_highest_score_wins_and_mean_is_weighted() -> None:
    """The score is the mean of the reviewers' weighted means."""
    state, _ = run_to_end(begin(num_agents=3, rounds=0))
    assert isinstance(state.result, DeliberationCompleted)
    assert state.result.winner_id == "agent-dev-003"
    assert [result.score for result in state.result.results] == [3.0, 2.0, 1.0]


def test_agent_whose_proposal_failed_takes_no_further_part() -> None:
    """It is missing, the result is degraded, and nobody asks it again."""
    failing = frozenset({("propose", 0, "agent-dev-002")})
    state, asked = run_to_end(begin(num_agents=3, rounds=1), failing_at(failing))
    assert isinstance(state.result, DeliberationCompleted)
    assert state.result.missing == ("agent-dev-002",)
    assert state.result.degraded
    assert [call.phase for call in asked if call.agent_id == "agent-dev-002"] == ["propose"]


def test_agent_that_fails_later_stays_with_what_it_has() -> None:
    """A failed revision leaves the last proposal standing, and the agent in."""
    failing = frozenset({("revise", 1, "agent-dev-001")})
    state, asked = run_to_end(begin(num_agents=3, rounds=1), failing_at(failing))
    assert isinstance(state.result, DeliberationCompleted)
    assert state.result.missing == ()
    assert state.result.degraded
    own = next(result for result in state.result.results if result.agent_id == "agent-dev-001")
    assert own.proposal.revisions == 0
    assert ("score", "agent-dev-001") in {(call.phase, call.agent_id) for call in asked}


def test_all_failed_fails_at_once() -> None:
    """No proposal left: FAILED, without waiting for the deadline."""
    agents = [f"agent-dev-00{number}" for number in (1, 2, 3)]
    state, _ = run_to_end(begin(), failing_at(frozenset(("propose", 0, agent) for agent in agents)))
    assert isinstance(state.result, AllFailed)
    assert [failed.agent_id for failed in state.result.failed_agents] == agents


def test_no_scores_are_null_never_made_up() -> None:
    """Every score call failed: ranked in agent order, with null."""
    agents = [f"agent-dev-00{number}" for number in (1, 2, 3)]
    failing = frozenset(("score", 0, agent) for agent in agents)
    state, _ = run_to_end(begin(rounds=0), failing_at(failing))
    assert isinstance(state.result, DeliberationCompleted)
    assert [(result.agent_id, result.score) for result in state.result.results] == [(agent, None) for agent in agents]


def test_deadline_without_a_proposal_is_a_timeout() -> None:
    """Nothing finished: TIMEOUT, every agent named, open calls stopped."""
    decision = decide(begin().state, DeadlinePassed(NOW + 300_000))
    assert isinstance(decision.state.result, TimedOut)
    assert {failed.error_type for failed in decision.state.result.failed_agents} == {"DeadlineExceeded"}
    assert any(isinstance(effect, StopCalls) for effect in decision.outbox)


def test_workers_that_meet_the_deadline_first_make_no_failure_of_it() -> None:
    """Workers may report the deadline before its own message comes: TIMEOUT without a proposal, never FAILED."""
    decision = begin(num_agents=2)
    for call in calls(decision):
        late = replace(failure(call), error_type="DeadlineExceeded")
        decision = respond(decision.state, late)
    assert isinstance(decision.state.result, TimedOut)


def test_no_phase_begins_after_the_deadline() -> None:
    """The last call of a phase ended with the deadline: completed with what there is, and nobody is asked again."""
    decision = begin(num_agents=3)
    first, second, third = calls(decision)
    for response in (answer(first), answer(second), replace(failure(third), error_type="DeadlineExceeded")):
        decision = respond(decision.state, response)
    assert isinstance(decision.state.result, DeliberationCompleted)
    assert decision.state.result.usage.calls == 3


def test_deadline_with_a_proposal_completes_degraded() -> None:
    """What is there is ranked; who is silent is missing."""
    first = begin()
    decision = respond(first.state, answer(calls(first)[0]))
    decision = decide(decision.state, DeadlinePassed(NOW + 300_000))
    assert isinstance(decision.state.result, DeliberationCompleted)
    assert decision.state.result.winner_id == "agent-dev-001"
    assert decision.state.result.missing == ("agent-dev-002", "agent-dev-003")
    assert decision.state.result.degraded


def test_cancel_ends_it_and_stops_the_calls() -> None:
    """CANCELLED with the reason; the workers are told."""
    decision = decide(begin().state, CancelAsked("changed my mind", NOW + 5))
    assert isinstance(decision.state.result, DeliberationCancelled)
    assert decision.state.result.reason == "changed my mind"
    assert isinstance(decision.outbox[0], StopCalls)


def test_late_response_after_completion_changes_nothing() -> None:
    """After the end every event leaves the state as it is and publishes nothing."""
    state, asked = run_to_end(begin())
    for call in asked:
        decision = respond(state, answer(call))
        assert decision.state is state
        assert decision.outbox == ()


@st.composite
def schedules(draw: st.DrawFn) -> tuple[dict[str, Any], Slots, bool, int]:
    """(the task, slots that fail, whether a call is lost, what scores are divided by: ties)."""
    agents = draw(st.integers(1, 5))
    rounds = draw(st.integers(0, 2))
    slots = [
        (phase, round_, f"agent-dev-{number:03d}")
        for phase, round_ in [
            ("propose", 0),
            *((p, r) for r in range(rounds + 1) for p in ("critique", "revise", "score")),
        ]
        for number in range(1, agents + 1)
    ]
    task = {
        "num_agents": agents,
        "rounds": rounds,
        "seed": draw(st.integers(0, 2**32)),
        "selection": draw(st.sampled_from(["score", "vote", "architect", "checks"])),
        "early_stop": draw(st.booleans()),
        "synthesis": draw(st.booleans()),
    }
    return task, draw(st.frozensets(st.sampled_from(slots), max_size=4)), draw(st.booleans()), draw(st.integers(1, 3))


@given(schedules(), st.randoms(use_true_random=False), st.data())
@settings(max_examples=150, deadline=None)
def test_order_and_repetition_never_show(
    schedule: tuple[dict[str, Any], Slots, bool, int], random: object, data: st.DataObject
) -> None:
    """Any order and any duplication of the same responses, and any loss followed by the deadline, end in the same
    result as the orderly run, and the terminal event is asked for exactly once.
    """
    task, failing, lose_one, divisor = schedule

    def judge(call: AgentRequested, author: str) -> float:
        return int(by_author(call, author)) // divisor

    def play(shuffle: bool) -> tuple[Deliberation, int]:
        decision = begin(**task)
        conclusions = 0
        seen: list[AgentResponse] = []
        lost = False
        while not decision.state.ended:
            pending = calls(decision)
            if shuffle:
                random.shuffle(pending)  # type: ignore[attr-defined]
            for call in pending:
                slot = (call.phase, call.round, call.agent_id)
                if lose_one and not lost and call.slot == "agent-dev-001" and call.phase != "propose":
                    lost = True
                    continue
                response = failure(call) if slot in failing else answer(call, judge=judge)
                repeats = [response]
                if shuffle:
                    repeats += [response] + ([data.draw(st.sampled_from(seen))] if seen else [])
                seen.append(response)
                for repeat in repeats:
                    after = respond(decision.state, repeat)
                    conclusions += sum(isinstance(effect, Conclude) for effect in after.outbox)
                    decision = Decision(after.state, after.outbox or decision.outbox)
            if lost and not decision.state.ended:
                decision = decide(decision.state, DeadlinePassed(NOW + 1000))
                conclusions += sum(isinstance(effect, Conclude) for effect in decision.outbox)
        return decision.state, conclusions

    orderly, once = play(shuffle=False)
    shuffled, also_once = play(shuffle=True)
    assert orderly.result == shuffled.result
    assert once == also_once == 1


def test_due_is_a_function_of_the_state() -> None:
    """What a state owes can be published again after a crash: the same calls with the same contents."""
    first = begin()
    assert due(first.state) == first.outbox
    half = respond(first.state, answer(calls(first)[1]))
    assert half.outbox == ()
    assert [effect.request.agent_id for effect in due(half.state) if isinstance(effect, CallAgent)] == [
        "agent-dev-001",
        "agent-dev-003",
    ]
