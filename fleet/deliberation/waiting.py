"""Lets a request wait for the result of an equal one, and answers it with that: `options.cache`.

    recorded ─▶ waits ─▶ answered by the result of an equal request: completed, with `cached_from`
                  │ └ there is none, and nobody works on one ─▶ propose, as every other
                  └ deadline ─▶ timeout;  cancel ─▶ cancelled

Whoever looks for such a result does so from outside (`fleet.control.caching`). It tells what it has found as an event.
An equal request that is at work gets a follower, and its end tells its followers to look again. What is lost
on the way costs `LOOK_EVERY_MS`: a request that waits is reminded by its own timer.
"""

import math

from fleet.deliberation import reports
from fleet.deliberation.phases import enter
from fleet.deliberation.state import Deliberation
from fleet.messages import DeliberationCompleted, TotalUsage
from fleet.times import from_rfc3339, rfc3339

LOOK_EVERY_MS = 30_000
HALF, TOO_LATE, AT_WORK = 0.5, 0.75, 0.4
"""Of the time of a request that waits: when it runs beside the other one, and how long that must have been at work."""
MOST_FOLLOWERS = 2_000
"""Of one request. Whoever comes after them does not wait."""


def begin(state: Deliberation, at_ms: int) -> Deliberation:
    """Waits, without a call. Its shadows are known, and not asked yet."""
    shadows = state.shadows and state.shadows.change(calls={})
    return look_again(state.change(shadows=shadows), at_ms)


def may_look_again(state: Deliberation, at_ms: int) -> bool:
    """Whether its timer means that, and not its deadline: a clock may be behind NATS'."""
    return state.waits and state.look_at != state.deadline_at and at_ms < from_rfc3339(state.deadline_at)


def look_again(state: Deliberation, at_ms: int) -> Deliberation:
    """Has looked, and does so again after some time: at half of its own at the latest, and never after its deadline."""
    half_ms = from_rfc3339(state.accepted_at) + math.ceil(HALF * 1000 * state.task.timeout_seconds)
    times_ms = [at_ms + LOOK_EVERY_MS, from_rfc3339(state.deadline_at), *([half_ms] if half_ms > at_ms else [])]
    return state.change(look_at=rfc3339(min(times_ms)))


def may_take_over(state: Deliberation, other: Deliberation, at_ms: int) -> bool:
    """Whether it should run beside the one that it waits for: about half of its time has gone, in which the other one
    was at work. So of equal requests with equal deadlines not all end with the one that gets no answer; and of those
    that wait one runs, for it has just begun when the others look.
    """
    time_ms = state.task.timeout_seconds * 1000
    waited = (at_ms - from_rfc3339(state.accepted_at)) / time_ms
    return not other.waits and HALF <= waited < TOO_LATE and (at_ms - other.phases[0].began_ms) / time_ms >= AT_WORK


def proceed(state: Deliberation, at_ms: int) -> Deliberation:
    """Begins as it would have without a cache."""
    shadows = state.shadows and state.shadows.change(calls=dict.fromkeys(state.shadows.ids, "open"))
    return enter(state.change(look_at=None, shadows=shadows), "propose", 0, at_ms)


def give_up(state: Deliberation) -> Deliberation:
    """Waits no more and will not begin: no model was called for it."""
    return state.change(look_at=None, shadows=None) if state.waits else state


def follow(state: Deliberation, follower: str) -> Deliberation:
    """Has another follower; the same state where it has that one, or too many."""
    if follower in state.followers or len(state.followers) >= MOST_FOLLOWERS:
        return state
    return state.change(followers=(*state.followers, follower))


def is_reusable(result: DeliberationCompleted) -> bool:
    """Whether an equal request may be answered with it: it is whole, nothing is missing, and it was not cut short.

    A text that went to the object store may be gone sooner than what refers to it.
    """
    proposals = [each.proposal for each in result.results]
    references = [text.content_ref for text in proposals]
    references += [text.content_ref for each in result.results for text in each.earlier]
    references += [result.synthesis.content_ref] if result.synthesis else []
    return (
        not result.degraded
        and result.cached_from is None
        and result.stop_reason != "deadline"
        and not any(text.truncated for text in proposals)
        and not any(references)
    )


def answer(state: Deliberation, result: DeliberationCompleted, at_ms: int) -> Deliberation:
    """COMPLETED with the result of an equal request. No model was called: usage and cost are none."""
    state = give_up(state)
    shadows = result.shadows and result.shadows.change(usage=TotalUsage(), usage_by_model={}, cost=0.0)
    event = result.change(
        **state.name._asdict(),
        cached_from=result.task_id,
        task=reports.task(state),
        correlation=state.task.correlation,
        accepted_at=state.accepted_at,
        completed_at=rfc3339(at_ms),
        duration_ms=max(0, at_ms - from_rfc3339(state.accepted_at)),
        usage=TotalUsage(),
        usage_by_model={},
        cost=0.0,
        shadows=shadows,
    )
    return state.change(status="COMPLETED", result=event)
