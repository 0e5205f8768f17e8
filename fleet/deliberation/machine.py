"""Moves a deliberation on, as a state machine: `decide(state, event) -> Decision(state, outbox)`.

Theory. A deliberation is a sequence of phases, each a set of calls, one per agent; a phase ends when every call of it
has ended, well or not:

    propose ─▶ ( critique ─▶ revise ) × rounds ─▶ score ─▶ … ─▶ completed        (all of them: `phases`)
       │ no proposal at all ─▶ failed
       └ anywhere: deadline ─▶ completed with the proposals so far, or timeout;  cancel ─▶ cancelled

Where roles have shadows, `completed` may wait for them a bounded time (`shadows.course`). Then neither the deadline nor
a cancellation changes how it ends. Under `options.cache` a request may wait for the result of an equal one (`waiting`).

Three properties carry everything else, and property tests hold them:

* A call is a slot (`round`, `phase`, agent and number of the question) filled once. An answer that names no
  open slot of the current phase changes nothing. So repeated and late answers are handled in one place.
* Within a phase order does not matter: what is derived from the answers is derived in agent order once all are there.
* The outbox is a function of the state alone. `due(state)` is all that must still be published: calls still open, or
  the terminal event. So a crash between saving a state and publishing its outbox is repaired by publishing `due` again,
  and deterministic message ids make the repetition harmless.
"""

import zlib
from dataclasses import dataclass, replace
from typing import assert_never

from fleet.deliberation import waiting
from fleet.deliberation.asking import calls, request
from fleet.deliberation.conclusion import complete_partial, conclude_cancelled
from fleet.deliberation.drawing import draw
from fleet.deliberation.events import (
    Announce,
    CallAgent,
    CancelAsked,
    ClearDeadline,
    Conclude,
    DeadlinePassed,
    Effect,
    Event,
    Followed,
    LookForResult,
    Reject,
    Requested,
    Responded,
    ResultFound,
    ResultMissing,
    SetDeadline,
    StopCalls,
)
from fleet.deliberation.phases import advance, enter
from fleet.deliberation.shadows import course as shadows
from fleet.deliberation.slots import expire, fill, is_late
from fleet.deliberation.state import Deliberation, seats
from fleet.messages import AgentResponse, DeliberationAccepted, DeliberationRejected
from fleet.subjects import generated_id, second_id
from fleet.tenants.names import key_of, name_of
from fleet.times import rfc3339


@dataclass(frozen=True, slots=True)
class Decision:
    """The new state, and what must be published because of it. `state is` the old one when nothing changed."""

    state: Deliberation
    outbox: tuple[Effect, ...] = ()


def decide(state: Deliberation | None, event: Event) -> Decision:
    """Applies one event. Only `Requested` may come without a state.

    A second `Requested` changes nothing; if it is another task than the first one, it is rejected.
    """
    if state is None:
        if not isinstance(event, Requested):
            raise ValueError(f"{type(event).__name__} for a deliberation that was never requested")
        begun = _begin(event)
        return Decision(begun, due(begun))
    if isinstance(event, Requested):
        return Decision(state) if _is_repeated(state, event) else Decision(state, (_conflict(event),))
    if state.ended:
        return Decision(state)
    match event:
        case Responded(response, at_ms):
            changed = _answered(state, response, at_ms)
        case DeadlinePassed(_, run) if run not in ("", state.run):
            changed = state
        case DeadlinePassed(at_ms) | CancelAsked(_, at_ms) if shadows.is_held(state):
            changed = complete_partial(state, at_ms)
        case DeadlinePassed(at_ms) if waiting.may_look_again(state, at_ms):
            changed = waiting.look_again(state, at_ms)
        case DeadlinePassed(at_ms):
            changed = complete_partial(expire(waiting.give_up(state)), at_ms, deadline=True)
        case CancelAsked(reason, at_ms):
            changed = conclude_cancelled(waiting.give_up(state), reason, at_ms)
        case Followed(follower):
            changed = waiting.follow(state, follower)
        case ResultFound() | ResultMissing() if not state.waits:
            changed = state
        case ResultFound(result, at_ms):
            changed = waiting.answer(state, result, at_ms)
        case ResultMissing(at_ms):
            changed = waiting.proceed(state, at_ms)
        case _:
            assert_never(event)
    return Decision(changed, due(changed, since=state))


def _answered(state: Deliberation, response: AgentResponse, at_ms: int) -> Deliberation:
    if (changed := shadows.fill(state, response)) is not state:
        changed = shadows.scoring_begun(changed)
        return complete_partial(changed, at_ms) if shadows.is_over(changed, at_ms) else changed
    if (changed := fill(state, response)) is state:
        return state
    if is_late(changed, response, at_ms):
        # Workers notice the deadline too, and their answer may arrive before the deadline's own message.
        return complete_partial(changed, at_ms, deadline=True)
    changed = advance(changed, at_ms)
    return shadows.held(state, changed, at_ms) if changed.ended else shadows.scoring_begun(changed)


def _step(state: Deliberation) -> tuple[object, ...]:
    return state.phase, state.round, state.reading, state.ended, state.waits


def due(state: Deliberation, since: Deliberation | None = None) -> tuple[Effect, ...]:
    """Everything that must still be published for `state`, in that order.

    `since`: an earlier state of the same task, for which everything was published: what was due then is left out.
    """
    moved = since is None or _step(state) != _step(since)
    if state.result is not None:
        stop = (StopCalls(state.task_id),) if "open" in state.calls.values() or shadows.is_open(state) else ()
        wake = (LookForResult(follower, ended=state.task_id) for follower in state.followers)
        return (*stop, Conclude(state.result), ClearDeadline(state.task_id), *wake) if moved else ()
    effects: list[Effect] = []
    begun = moved and state.phase == "propose" and (since is None or not since.waits)
    timer_at = since.timer_at if since is not None else state.deadline_at
    if state.look_at is not None:
        if begun or state.timer_at != timer_at:
            effects.append(LookForResult(state.task_id, state.look_at))
    elif moved:
        effects += [
            CallAgent(request(state, call)) for slot, call in calls(state).items() if state.calls.get(slot) == "open"
        ]
    effects += [CallAgent(call) for call in shadows.open_calls(state, since)]
    if begun:
        effects.append(Announce(_accepted(state)))
    if begun or state.timer_at != timer_at:
        effects.append(SetDeadline(state.task_id, state.timer_at))
    return tuple(effects)


def recover(state: Deliberation, *, request_redelivered: bool = False) -> tuple[Effect, ...]:
    """`due`, and while the task runs the beginning's effects too: after a crash they may not have been published.

    `request_redelivered`: then even a task that has ended may lack its acceptance.
    """
    if state.ended:
        return (Announce(_accepted(state)), *due(state)) if request_redelivered else due(state)
    if state.phase == "propose":
        return due(state)
    return (SetDeadline(state.task_id, state.timer_at), Announce(_accepted(state)), *due(state))


def began(state: Deliberation, event: Requested) -> bool:
    """Whether this very request began the task. Its sequence alone does not tell: see `Requested`."""
    return event.sequence == state.stream_sequence and event.run == state.run


def renamed(state: Deliberation, event: Requested) -> Requested | None:
    """The request as it goes on where the id that was made of its sequence is another request's. None: it is not."""
    own = event.message_id or event.run
    if not own or _is_named(event) or _is_repeated(state, event):
        return None
    return replace(event, task_id=key_of(name_of(event.task_id).tenant, second_id(event.sequence, own)))


def _is_repeated(state: Deliberation, event: Requested) -> bool:
    """The request that began the task, or the same one under the id that its client chose.

    An id that was made of the sequence may stand for two requests; who sent them did not mean the same task.
    """
    if began(state, event):
        return bool(state.run) or event.task == state.task
    return event.task == state.task and (_is_named(event) or not state.run)


def _is_named(event: Requested) -> bool:
    """Whether its client has chosen the id."""
    return name_of(event.task_id).task_id != generated_id(event.sequence)


def _begin(event: Requested) -> Deliberation:
    task = event.task
    begun = Deliberation(
        task_id=event.task_id,
        status="IN_PROGRESS",
        phase="propose",
        round=0,
        task=task,
        rubric=event.rubric if task.rubric is None else task.rubric,
        seed=zlib.crc32(event.task_id.encode()) if task.seed is None else task.seed,
        stream_sequence=event.sequence,
        run=event.run,
        message_id=event.message_id,
        ignored_fields=event.ignored_fields,
        accepted_at=rfc3339(event.at_ms),
        deadline_at=rfc3339(event.at_ms + round(task.timeout_seconds * 1000)),
        agents=seats(task),
        judges=event.judges,
        calls={},
        traceparent=event.traceparent,
        cache_key=event.cache_key,
    )
    if event.answer is not None:
        return waiting.answer(begun, event.answer, event.at_ms)
    role_of = {agent: begun.role_of(agent) for agent in begun.agents}
    begun = begun.change(models=draw(begun.seed, role_of, event.models))
    begun = shadows.begin(begun, event.shadows)
    if event.cache_key:
        return waiting.begin(begun, event.at_ms)
    return enter(begun, "propose", 0, event.at_ms)


def _conflict(event: Requested) -> Reject:
    name = name_of(event.task_id)
    rejected = DeliberationRejected(
        **name._asdict(),
        code="conflict",
        path="$.task_id",
        error=f"$.task_id: {name.task_id!r} was used before, for another request",
        stream_sequence=event.sequence,
        rejected_at=rfc3339(event.at_ms),
        run=event.run,
        message_id=event.message_id,
        correlation=event.task.correlation,
    )
    return Reject(rejected, event.traceparent)


def _accepted(state: Deliberation) -> DeliberationAccepted:
    return DeliberationAccepted(
        **state.name._asdict(),
        status="IN_PROGRESS",
        role=state.task.role,
        agents=state.agents,
        rounds=state.task.rounds,
        accepted_at=state.accepted_at,
        deadline_at=state.deadline_at,
        stream_sequence=state.stream_sequence,
        run=state.run,
        ignored_fields=state.ignored_fields,
        correlation=state.task.correlation,
    )
