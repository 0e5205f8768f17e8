"""What a state requires, and may not have published: after a crash, or after a stream was lost."""

from collections.abc import Sequence

from msgspec.structs import replace

from fleet import subjects
from fleet.control.items import Adopt, FailLost, Item, PublishAgain, Reissue
from fleet.deliberation.events import CallAgent, DeadlinePassed, Effect, Requested, SetDeadline
from fleet.deliberation.machine import began, recover
from fleet.deliberation.state import Deliberation


def owes(state: Deliberation, item: Item) -> bool:
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


def recovered(state: Deliberation, owed: Sequence[Item]) -> tuple[Effect, ...]:
    """What `state` requires, to be published because of these items."""
    events = (item.event for item in owed)
    redelivered = any(isinstance(event, Requested) or event == PublishAgain(request=True) for event in events)
    return recover(state, request_redelivered=redelivered)


def reissued(state: Deliberation, batch: Sequence[Item]) -> tuple[Effect, ...]:
    """What was in a stream that is lost, and is still needed."""
    demands = [item.event for item in batch if isinstance(item.event, Reissue)]
    if state.ended or not demands:
        return ()
    return tuple(
        _as_second_attempt(effect)
        for effect in recover(state)
        if any(isinstance(effect, demand.kinds) and not _is_among(effect, demand.stored) for demand in demands)
    )


def _is_among(effect: Effect, stored: frozenset[str]) -> bool:
    match effect:
        case CallAgent(call):
            return call.msg_id in stored or replace(call, attempt=2).msg_id in stored
        case SetDeadline(task_id):
            return subjects.schedule_of(task_id) in stored
    return False


def _as_second_attempt(effect: Effect) -> Effect:
    """The id of a call's first attempt may be known to a stream that is still there."""
    return CallAgent(replace(effect.request, attempt=2)) if isinstance(effect, CallAgent) else effect
