"""Applies a batch of events to a state, in memory: reads, saves and publishes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from fleet.control.items import Adopt, FailLost, Item, PublishAgain, Reissue
from fleet.control.states.saves import AppliedEvent
from fleet.control.states.store import Stored
from fleet.deliberation.events import Reject, Requested
from fleet.deliberation.machine import decide, renamed
from fleet.deliberation.state import Deliberation
from fleet.messages import status_of


@dataclass(frozen=True, slots=True)
class Read:
    """What is known before the batch is applied. `revision`: what a save must find; `begun`: the end of a lost task."""

    stored: Stored | None
    revision: int = 0
    cached: bool = False
    begun: Deliberation | None = None

    @property
    def state(self) -> Deliberation | None:
        return self.stored.state if self.stored else None


@dataclass(frozen=True, slots=True)
class Change:
    """What the events lead to. `moved`: something must be published for it. `elsewhere`: requests of another task, as
    they came and as they go on.
    """

    state: Deliberation | None
    moved: bool
    rejections: tuple[Reject, ...] = ()
    applied: tuple[AppliedEvent, ...] = ()
    elsewhere: tuple[tuple[Item, Item], ...] = ()

    def applicable(self, batch: Sequence[Item]) -> list[Item]:
        """Without those that are elsewhere."""
        return [item for item in batch if all(item is not other for other, _ in self.elsewhere)]


def fold(read: Read, batch: Sequence[Item]) -> Change:
    """Applies the batch in memory."""
    state = read.state or read.begun
    moved = read.begun is not None
    rejections: list[Reject] = []
    applied: list[AppliedEvent] = []
    elsewhere: list[tuple[Item, Item]] = []
    if state is None and read.revision:  # it cannot be read, and its time has not come
        return Change(None, moved=False)
    for item in batch:
        event = item.event
        if isinstance(event, Adopt):
            if state is not None and not state.ended:
                state, moved = state.change(status=status_of(event.event), result=event.event), True
            continue
        if isinstance(event, PublishAgain | Reissue | FailLost) or (state is None and not isinstance(event, Requested)):
            continue
        if state is not None and isinstance(event, Requested) and (other := renamed(state, event)) is not None:
            elsewhere.append((item, Item(other, item.delivery)))
            continue
        decision = decide(state, event)
        if decision.state is not state:
            applied.append(AppliedEvent(event, state, decision.state))
        state = decision.state
        rejected = [effect for effect in decision.outbox if isinstance(effect, Reject)]
        rejections += rejected
        moved = moved or len(decision.outbox) > len(rejected)
    return Change(state, moved, tuple(rejections), tuple(applied), tuple(elsewhere))
