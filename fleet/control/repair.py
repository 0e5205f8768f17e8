"""Saying an end again that another process may have said, or may be about to say: exactly one of them does."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from fleet.control.store import StateStore, Stored
from fleet.deliberation.events import Conclude, Effect
from fleet.deliberation.state import Deliberation


class Publisher(Protocol):
    """Carries effects out; `fleet.control.outbox.Outbox` is the real one."""

    @property
    def instance(self) -> str:
        """The name of this process' connection, by which others ask for it."""

    async def is_out(self, state: Deliberation, *, at_work: bool) -> bool:
        """Whether the terminal event is published. Raises `StillOut` where that cannot be told yet.

        `at_work`: whoever asks is the one who works on the task in this process.
        """

    async def publish(self, state: Deliberation, effects: Iterable[Effect]) -> None:
        """Publishes all, or raises. A terminal event only where `state` was written by this instance."""


async def end_again(
    store: StateStore, outbox: Publisher, stored: Stored, effects: Sequence[Effect], *, at_work: bool
) -> None:
    """Publishes what an ended state owes. Raises `StillOut`, and `StoreConflict` where another one was faster.

    The event is looked for first, and then claimed, by saving the state once more: of two that repair it one goes on,
    and only while the disk takes what is written. What JetStream refuses core subscribers have seen already, and would
    see again.
    """
    state = stored.state
    if await outbox.is_out(state, at_work=at_work):
        effects = [effect for effect in effects if not isinstance(effect, Conclude)]
    else:
        state = state.change(written_by=outbox.instance)
        await store.save(state, stored.revision)
    await outbox.publish(state, effects)
