"""Makes runners that nobody observes, beside streams in which nothing is lost."""

from collections.abc import Mapping, Sequence

from fleet.control.publishing.terminal_events import Publisher
from fleet.control.runner import FindUnended, Runner
from fleet.control.states.saves import AppliedEvent, Observer
from fleet.control.states.store import StateStore
from fleet.deliberation.state import Deliberation
from fleet.messages import DeliberationAccepted


class Unobserved:
    """An `Observer` that does nothing."""

    def saved(self, before: Deliberation | None, after: Deliberation, applied: Sequence[AppliedEvent]) -> None:
        """Not counted."""

    def ended(self, state: Deliberation) -> None:
        """Not traced."""

    async def exported(self) -> None:
        """There is nothing to export."""


async def nothing_unended() -> Mapping[str, DeliberationAccepted]:
    return {}


def make_runner(
    store: StateStore,
    publisher: Publisher,
    *,
    find_unended: FindUnended = nothing_unended,
    observer: Observer | None = None,
) -> Runner:
    return Runner(store, publisher, find_unended, observer or Unobserved())
