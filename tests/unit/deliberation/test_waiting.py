"""A request that waits for the result of an equal one: what it publishes, and every way in which it ends."""

from typing import Any

import pytest

from fleet.deliberation import waiting
from fleet.deliberation.events import (
    Announce,
    CallAgent,
    CancelAsked,
    ClearDeadline,
    Conclude,
    DeadlinePassed,
    Event,
    Followed,
    LookForResult,
    Requested,
    ResultFound,
    ResultMissing,
    SetDeadline,
)
from fleet.deliberation.machine import Decision, decide, recover
from fleet.messages import ContentRef, DeliberationCompleted, EarlierText, Proposal, Synthesis, TotalUsage
from fleet.requests.task import Task
from fleet.times import rfc3339
from tests.support.council import run_to_end

NOW = 1_767_225_600_000
TASK = Task(task_description="Design it", num_agents=2, rounds=0, cache="use")


def requested(task_id: str = "waits", **more: Any) -> Decision:
    return decide(None, Requested(task_id, TASK, 7, NOW, cache_key="a-key", **more))


def kinds(decision: Decision) -> list[type]:
    return [type(effect) for effect in decision.outbox]


def result(**changes: Any) -> DeliberationCompleted:
    """Of an equal request."""
    state, _ = run_to_end(decide(requested("origin").state, ResultMissing(NOW)))
    assert isinstance(state.result, DeliberationCompleted)
    return state.result.change(**changes)


def test_it_is_announced_and_looks_and_calls_nobody() -> None:
    """Its timer is that of its next look; a crash publishes the same again."""
    begun = requested()
    assert kinds(begun) == [LookForResult, Announce, SetDeadline]
    assert begun.state.timer_at == rfc3339(NOW + waiting.LOOK_EVERY_MS) < begun.state.deadline_at
    assert (begun.state.status, begun.state.calls) == ("IN_PROGRESS", {})
    assert recover(begun.state) == begun.outbox


def test_what_nobody_has_answered_begins_as_every_other() -> None:
    """It was announced before; the timer becomes its deadline."""
    begun = decide(requested().state, ResultMissing(NOW + 5))
    assert kinds(begun) == [CallAgent, CallAgent, SetDeadline]
    assert begun.state.timer_at == begun.state.deadline_at
    assert begun.state.phases[0].began_ms == NOW + 5
    plain = decide(None, Requested("waits", TASK, 7, NOW))
    calls = [effect for effect in plain.outbox if isinstance(effect, CallAgent)]
    assert [effect for effect in begun.outbox if isinstance(effect, CallAgent)] == calls
    assert kinds(Decision(begun.state, recover(begun.state))) == [CallAgent, CallAgent, Announce, SetDeadline]


def test_its_shadows_are_asked_when_it_begins() -> None:
    waits = requested(shadows={"DEV": ("candidate",)})
    assert CallAgent not in kinds(waits)
    begun = decide(waits.state, ResultMissing(NOW))
    shadows = [effect.request.shadow for effect in begun.outbox if isinstance(effect, CallAgent)]
    assert shadows == [False, False, True]


def test_it_is_answered_with_the_result_and_nothing_is_used() -> None:
    answered = decide(requested().state, ResultFound(result(), NOW + 70))
    assert kinds(answered) == [Conclude, ClearDeadline]
    event = answered.state.result
    assert isinstance(event, DeliberationCompleted)
    assert (event.cached_from, event.task_id, event.duration_ms) == ("origin", "waits", 70)
    assert (event.usage, event.usage_by_model, event.cost) == (TotalUsage(), {}, 0.0)
    assert event.results == result().results


def test_an_answer_that_is_there_ends_it_as_it_begins() -> None:
    begun = requested(answer=result())
    assert (begun.state.status, kinds(begun)) == ("COMPLETED", [Conclude, ClearDeadline])


@pytest.mark.parametrize(
    ("ending", "status"), [(CancelAsked("enough", NOW + 9), "CANCELLED"), (DeadlinePassed(NOW + 300_000), "TIMEOUT")]
)
def test_it_ends_without_a_call(ending: Event, status: str) -> None:
    """Nothing is to be stopped, no agent has failed, and what was used is nothing."""
    ended = decide(requested(shadows={"DEV": ("candidate",)}).state, ending)
    assert (ended.state.status, kinds(ended)) == (status, [Conclude, ClearDeadline])
    event: Any = ended.state.result
    assert (event.usage, event.shadows, getattr(event, "failed_agents", ())) == (TotalUsage(), None, ())


def test_its_timer_makes_it_look_again_and_its_deadline_ends_it() -> None:
    """The last timer is the deadline's, even if a clock is behind NATS'."""
    state, looks = requested().state, 0
    while state.look_at != state.deadline_at:
        looked = decide(state, DeadlinePassed(NOW + (looks + 1) * waiting.LOOK_EVERY_MS))
        assert kinds(looked) == [LookForResult, SetDeadline]
        state, looks = looked.state, looks + 1
    assert looks == 300_000 // waiting.LOOK_EVERY_MS - 1
    assert decide(state, DeadlinePassed(NOW + 299_000)).state.status == "TIMEOUT"


def test_it_looks_at_half_of_its_time() -> None:
    """A short one too, whose timer would be its deadline's."""
    short = decide(None, Requested("short", TASK.change(timeout_seconds=20.0), 7, NOW, cache_key="a-key")).state
    assert short.look_at == rfc3339(NOW + 10_000)
    assert decide(short, DeadlinePassed(NOW + 10_000)).state.look_at == short.deadline_at


@pytest.mark.parametrize(
    ("began_after_s", "at_s", "takes_over"),
    [
        (0, 149, False),
        (0, 150, True),
        (30, 150, True),
        (31, 150, False),
        (31, 180, True),
        (150, 224, False),
        (0, 225, False),
    ],
)
def test_it_runs_beside_one_that_takes_too_long(began_after_s: int, at_s: int, takes_over: bool) -> None:
    """Half of its own time was waited, while the other one was at work; not one that took over itself."""
    own, other = requested().state, requested("origin").state
    assert not waiting.may_take_over(own, other, NOW + at_s * 1000)
    running = decide(other, ResultMissing(NOW + began_after_s * 1000)).state
    assert waiting.may_take_over(own, running, NOW + at_s * 1000) == takes_over


def test_followers_are_told_of_the_end_whatever_it_is() -> None:
    """Each is noted once; a follower changes nothing else."""
    running = decide(requested("origin").state, ResultMissing(NOW)).state
    for follower in ("a", "b", "a"):
        followed = decide(running, Followed(follower))
        assert followed.outbox == ()
        running = followed.state
    assert running.followers == ("a", "b")
    told = (LookForResult("a", ended="origin"), LookForResult("b", ended="origin"))
    assert decide(running, CancelAsked("enough", NOW)).outbox[-2:] == told
    ended, _ = run_to_end(Decision(running, recover(running)))
    assert recover(ended)[-2:] == told
    assert decide(ended, Followed("late")) == Decision(ended)


def test_there_are_only_so_many_followers() -> None:
    state = requested().state.change(followers=tuple(map(str, range(waiting.MOST_FOLLOWERS))))
    assert decide(state, Followed("one-more")) == Decision(state)


def test_what_was_found_means_nothing_to_one_that_does_not_wait() -> None:
    running = decide(requested().state, ResultMissing(NOW)).state
    assert decide(running, ResultMissing(NOW)) == decide(running, ResultFound(result(), NOW)) == Decision(running)


def _winner(**changes: Any) -> dict[str, Any]:
    first, *others = result().results
    proposal: Proposal = first.proposal.change(**changes)
    return {"results": (first.change(proposal=proposal), *others)}


REF = ContentRef(bucket="deliberation-texts", name="tasks/x", bytes=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"degraded": True},
        {"cached_from": "another"},
        {"stop_reason": "deadline"},
        _winner(truncated=True),
        _winner(content_ref=REF),
        {"synthesis": Synthesis(content="", author_id="a", model="m", tokens=1, content_ref=REF)},
        {
            "results": tuple(
                each.change(earlier=(EarlierText(round=0, content="", content_ref=REF),)) for each in result().results
            )
        },
    ],
    ids=["degraded", "cached", "deadline", "truncated", "reference", "synthesis", "earlier"],
)
def test_what_is_not_whole_answers_nobody(changes: dict[str, Any]) -> None:
    assert waiting.is_reusable(result())
    assert not waiting.is_reusable(result(**changes))
