"""Derives from a state what must still be published: after a crash, or after a stream was lost."""

import dataclasses
from collections.abc import Collection, Sequence

from msgspec import structs

from fleet import subjects
from fleet.control.items import Adopt, FailLost, Item, PublishAgain, Reissue
from fleet.deliberation.events import CallAgent, DeadlinePassed, Effect, Requested, SetDeadline
from fleet.deliberation.machine import began, recover
from fleet.deliberation.state import Deliberation

MOST_ATTEMPTS = 6
"""Of publishing one call, where it is purged again and again within the duplicate window."""


def may_be_unpublished(state: Deliberation, item: Item) -> bool:
    """Whether something that `state` requires may not have been published because of this item."""
    match item.event:
        case PublishAgain(request):
            return request or state.ended
        case FailLost():  # another process may have saved its end, and died before it published it
            return state.ended
        case Reissue() | Adopt():
            return False
        case DeadlinePassed() if state.ended:
            return True
        case Requested() as requested if began(state, requested):
            return True  # it may come again as a first delivery: a consumer that was created again counts from one
    return item.delivery.id in state.cause


def recovered(state: Deliberation, items: Sequence[Item]) -> tuple[Effect, ...]:
    """What `state` requires, to be published because of these items."""
    events = (item.event for item in items)
    redelivered = any(isinstance(event, Requested) or event == PublishAgain(request=True) for event in events)
    return recover(state, request_redelivered=redelivered)


def reissued(state: Deliberation, batch: Sequence[Item]) -> tuple[Effect, ...]:
    """What was in a stream that is lost, and is still needed."""
    demands = [item.event for item in batch if isinstance(item.event, Reissue)]
    if state.ended or not demands:
        return ()
    return tuple(
        _as_attempt(effect, demand.attempt)
        for effect in recover(state)
        for demand in demands[-1:]
        if isinstance(effect, demand.kinds) and (demand.only is None or _name(effect) in demand.only)
    )


def missing(state: Deliberation, stored: Collection[str], answered: Collection[str]) -> frozenset[str]:
    """Message ids of calls, and the subject of the schedule, that a running task requires and that are not stored, in
    no attempt. `answered`: the names of calls whose answers are on their way.
    """
    if state.ended:
        return frozenset()
    required = {_name(effect): effect for effect in recover(state)}
    return frozenset(
        name
        for name, effect in required.items()
        if name
        and not (isinstance(effect, CallAgent) and effect.request.name in answered)
        and not any(_name(_as_attempt(effect, attempt)) in stored for attempt in range(1, MOST_ATTEMPTS + 1))
    )


def _name(effect: Effect) -> str | None:
    match effect:
        case CallAgent(call):
            return call.msg_id
        case SetDeadline(task_id):
            return subjects.schedule_of(task_id)
    return None


def _as_attempt(effect: Effect, attempt: int) -> Effect:
    match effect:
        case CallAgent(call):
            return CallAgent(structs.replace(call, attempt=attempt))
        case SetDeadline():
            return dataclasses.replace(effect, attempt=attempt)
    return effect
