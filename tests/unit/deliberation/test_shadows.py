"""Shadows propose and are scored, and whatever becomes of them, the council's result is the same without them."""

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.control.states.store import _decoded
from fleet.deliberation.events import (
    CallAgent,
    CancelAsked,
    Conclude,
    DeadlinePassed,
    Event,
    Requested,
    Responded,
    SetDeadline,
    StopCalls,
)
from fleet.deliberation.machine import Decision, decide, due, recover
from fleet.deliberation.shadows.course import LEAST_WAIT_MS, MOST_WAIT_MS
from fleet.deliberation.state import Deliberation
from fleet.messages import (
    AgentRequested,
    AgentResponse,
    DeliberationCancelled,
    DeliberationCompleted,
    TerminalEvent,
    encode,
)
from fleet.requests.task import Task
from fleet.times import from_rfc3339, rfc3339
from tests.support.agents import answer, by_author, failure
from tests.support.council import NOW, calls

AT = NOW + 1000
SHADOWS = {"DEV": ("candidate", "other")}


def begin(shadows: dict[str, tuple[str, ...]] = SHADOWS, **task: Any) -> Decision:
    task = {"task_description": "Build it", "num_agents": 3} | task
    return decide(None, Requested("t-1", Task(**task), 7, NOW, shadows=shadows))


def judged(call: AgentRequested) -> AgentResponse:
    """Answers; the texts of shadows are better than all others."""
    return answer(call, judge=lambda call, author: 9 if is_shadow(author) else by_author(call, author))


def is_shadow(agent: str) -> bool:
    return "-10" in agent


def play(decision: Decision, random: Random, fate: str = "answered") -> tuple[Deliberation, list[AgentRequested]]:
    """Answers the council's calls in their order, those of shadows whenever `random` says; `fate`: what becomes of
    them. A council that waits for shadows is ended by its timer, where they do not answer.
    """
    waiting, asked = calls(decision), calls(decision)
    state = decision.state
    while not state.ended:
        council = [call for call in waiting if not call.shadow]
        shadows = [call for call in waiting if call.shadow and fate != "silent"]
        if not council and not shadows:
            decision = decide(state, DeadlinePassed(from_rfc3339(state.timer_at)))
        else:
            call = council[0] if council and (not shadows or random.random() < 0.7) else random.choice(shadows)
            waiting.remove(call)
            fails = call.shadow and (fate == "failed" or (fate == "mixed" and random.random() < 0.5))
            decision = decide(state, Responded(failure(call) if fails else judged(call), AT))
        new = calls(decision)
        assert not {call.msg_id for call in new} & {call.msg_id for call in asked}, "a call is asked for once"
        waiting, asked, state = [*waiting, *new], [*asked, *new], decision.state
    return state, asked


def council_of(event: TerminalEvent | None) -> TerminalEvent:
    """The event without what is told of shadows, and without its time."""
    assert event is not None
    if isinstance(event, DeliberationCompleted):
        event = event.change(results=event.ranked)
    return event.change(shadows=None, duration_ms=0, completed_at="")


tasks = st.fixed_dictionaries(
    {
        "num_agents": st.integers(1, 5),
        "rounds": st.integers(0, 2),
        "selection": st.sampled_from(["score", "vote", "architect", "checks"]),
        "synthesis": st.booleans(),
        "seed": st.integers(0, 3),
        "max_total_tokens": st.sampled_from([None, 40, 120]),
        "judges_per_proposal": st.sampled_from([None, 2]),
        "gate": st.booleans(),
        "second_reading": st.booleans(),
    }
)


@settings(max_examples=150, deadline=None)
@given(task=tasks, fate=st.sampled_from(["answered", "failed", "silent", "mixed"]), seed=st.integers(0, 10_000))
def test_a_council_comes_to_the_same_result_with_shadows_and_without(
    task: dict[str, Any], fate: str, seed: int
) -> None:
    """The same calls with the same prompts, and the same event: ranking, reviews, usage, notes, whether degraded."""
    alone, asked_alone = play(begin({}, **task), Random(seed))
    state, asked = play(begin(**task), Random(seed), fate)
    assert council_of(state.result) == council_of(alone.result)
    assert [call for call in asked if not call.shadow] == asked_alone
    assert state.result is not None
    assert state.result.shadows is not None
    used = [call for call in asked if call.shadow]
    assert state.result.shadows.usage.calls == len(used)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), rounds=st.integers(0, 1))
def test_neither_order_nor_repetition_of_shadows_answers_shows(seed: int, rounds: int) -> None:
    """Shadows' part of the result is the same, whenever they answer; and a second answer changes nothing."""
    usual, _ = play(begin(rounds=rounds), Random(0))
    state, asked = play(begin(rounds=rounds), Random(seed))
    assert state.result == usual.result
    for call in asked:
        assert decide(state, Responded(judged(call), AT)) == Decision(state)
    early = begin(rounds=rounds)
    (shadow, _) = (call for call in calls(early) if call.shadow)
    once = decide(early.state, Responded(judged(shadow), AT)).state
    assert decide(once, Responded(failure(shadow), AT)) == Decision(once)


@pytest.mark.parametrize("rounds", [0, 1])
def test_shadows_are_scored_and_stand_last(rounds: int) -> None:
    """By all members, who rate them best: they still do not win. What they wrote and what they cost is told."""
    state, asked = play(begin(rounds=rounds), Random(1))
    event = state.result
    assert isinstance(event, DeliberationCompleted)
    assert [(each.agent_id, each.shadow, each.rank) for each in event.results[3:]] == [
        ("agent-dev-101", True, 4),
        ("agent-dev-102", True, 5),
    ]
    assert (event.winner_id, event.total_agents, event.degraded) == ("agent-dev-003", 3, False)
    for shadow in event.results[3:]:
        assert shadow.score is not None
        assert shadow.score > max(each.score or 0 for each in event.ranked)
        assert {review.reviewer_id for review in shadow.reviews} == {each.agent_id for each in event.ranked}
        assert (shadow.p_best, shadow.proposal.content) == (None, f"propose 0 by {shadow.agent_id}")
    models = {call.agent_id: call.model for call in asked if call.shadow and call.phase == "propose"}
    assert models == {"agent-dev-101": "candidate", "agent-dev-102": "other"}
    assert event.shadows is not None
    assert [reading.reviewer_id for reading in event.shadows.readings] == [each.agent_id for each in event.ranked[::-1]]
    assert {reading.model for reading in event.shadows.readings} == {"m"}
    assert all(len(reading.scores) == 4 for reading in event.shadows.readings)
    assert event.shadows.usage_by_model["candidate"].calls == 1


def test_first_texts_are_compared_with_first_texts() -> None:
    """Also where members have revised theirs before the shadows have proposed; and no other prompt has a shadow's."""
    state, asked = play(begin(rounds=1, num_agents=2), Random(1))
    text = {call.call_id: "\n".join(message.content for message in call.messages) for call in asked}
    for call in asked:
        shown = "propose 0 by agent-dev-101" in text[call.call_id]
        assert shown == (call.shadow and call.phase == "score")
        if shown:
            assert "revise 1 by" not in text[call.call_id]
            assert f"by {call.agent_id}" not in text[call.call_id]
    assert state.ended


def silent(**task: Any) -> Deliberation:
    """A council that has come to its end while its shadows are silent."""
    decision = begin(**task)
    waiting = calls(decision)
    while any(not call.shadow for call in waiting):
        (call, *waiting) = sorted(waiting, key=lambda call: call.shadow)
        decision = decide(decision.state, Responded(judged(call), AT))
        waiting += calls(decision)
    return decision.state


@pytest.mark.parametrize(
    "end", [DeadlinePassed(AT + LEAST_WAIT_MS), CancelAsked("enough", AT), DeadlinePassed(NOW + 300_000)]
)
def test_whatever_ends_the_wait_for_shadows_the_council_has_completed(end: Event) -> None:
    """Its timer, the deadline, or somebody who cancels what is already decided; and it ends once."""
    state = silent(rounds=0)
    assert (state.status, state.result) == ("IN_PROGRESS", None)
    ended = decide(state, end)
    assert [type(effect) for effect in ended.outbox][:2] == [StopCalls, Conclude]
    assert isinstance(ended.state.result, DeliberationCompleted)
    assert (ended.state.result.degraded, ended.state.result.winner_id) == (False, "agent-dev-003")
    report = ended.state.result.shadows
    assert report is not None
    assert report.missing == ("agent-dev-101", "agent-dev-102")
    assert [call.error_type for call in report.failed_calls] == ["DeadlineExceeded"] * 2
    for again in (end, CancelAsked("", AT), DeadlinePassed(NOW + 400_000)):
        assert decide(ended.state, again) == Decision(ended.state)


@pytest.mark.parametrize(("took_ms", "waits_ms"), [(100, LEAST_WAIT_MS), (40_000, 10_000), (250_000, MOST_WAIT_MS)])
def test_the_wait_is_bounded_and_has_its_own_timer(took_ms: int, waits_ms: int) -> None:
    """A share of the council's time within two limits, and never beyond the deadline."""
    decision = begin(rounds=0, num_agents=2, timeout_seconds=300)
    pending = calls(decision)
    for call in [call for call in pending if not call.shadow]:
        decision = decide(decision.state, Responded(judged(call), NOW))
    for call in calls(decision):
        decision = decide(decision.state, Responded(judged(call), NOW + took_ms))
    until = rfc3339(min(NOW + took_ms + waits_ms, NOW + 300_000))
    assert decision.outbox == (SetDeadline("t-1", until),)
    assert SetDeadline("t-1", until) in recover(decision.state)
    (shadow, _) = (call for call in pending if call.shadow)
    late = decide(decision.state, Responded(failure(shadow), NOW + took_ms + waits_ms))
    assert late.state.ended, "also where the timer is lost"


def test_a_council_does_not_wait_for_what_nobody_could_score() -> None:
    """One agent alone, one that is left, `selection: checks`, no proposal at all: the end comes at once."""
    for task in ({"num_agents": 1}, {"selection": "checks", "rounds": 0}):
        assert silent(**task).ended
    decision = begin(num_agents=2)
    for call in [call for call in calls(decision) if not call.shadow]:
        assert not decision.state.ended
        decision = decide(decision.state, Responded(failure(call), AT))
    assert decision.state.status == "FAILED"
    assert [type(effect) for effect in decision.outbox][:2] == [StopCalls, Conclude]


def test_a_cancelled_council_tells_what_its_shadows_have_used() -> None:
    """Nothing is spent in silence."""
    decision = begin()
    (shadow, _) = (call for call in calls(decision) if call.shadow)
    state = decide(decision.state, Responded(judged(shadow), AT)).state
    event = decide(state, CancelAsked("enough", AT)).state.result
    assert isinstance(event, DeliberationCancelled)
    assert event.shadows is not None
    assert (event.usage.calls, event.shadows.usage.completion_tokens) == (0, 3)


def test_what_a_state_still_requires_is_a_function_of_it() -> None:
    """After a crash: all open calls of council and shadows, and no other."""
    decision = begin()
    state, waiting = decision.state, {call.msg_id: call for call in calls(decision)}
    while not state.ended:
        required = {effect.request.msg_id for effect in due(state) if isinstance(effect, CallAgent)}
        assert required == waiting.keys()
        msg_id = max(waiting)
        decision = decide(state, Responded(judged(waiting.pop(msg_id)), AT))
        state = _decoded("t-1", encode(decision.state))
        waiting |= {call.msg_id: call for call in calls(decision)}


def test_roles_have_shadows_of_their_own() -> None:
    """One for each model of each role of the council, numbered within the role."""
    state = begin({"DEV": ("a",), "QA": ("b", "a"), "DATA": ("c",)}, roles=("DEV", "QA"), num_agents=4).state
    assert state.shadows is not None
    assert [(each.agent_id, each.role, each.model) for each in state.shadows.agents] == [
        ("agent-dev-101", "DEV", "a"),
        ("agent-qa-101", "QA", "b"),
        ("agent-qa-102", "QA", "a"),
    ]
