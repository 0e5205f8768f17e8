"""Defines what the runner takes: an event or a demand of recovery, and the delivery that carried it."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Protocol

from fleet.deliberation.events import Event
from fleet.messages import DeliberationAccepted, TerminalEvent


@dataclass(frozen=True, slots=True)
class PublishAgain:
    """A message about the task was given up. What its state requires may never have been published.

    `request`: it was the request, so the calls, the deadline and the acceptance count too; else only an end does.
    """

    request: bool = False


@dataclass(frozen=True, slots=True)
class Reissue:
    """A stream was lost. A running task's effects of these kinds are published again, as another attempt: the id of the
    one before may be known to a stream from which the message itself is gone.

    `only`: message ids of calls, and subjects of schedules, that are known to be missing; None: all.
    """

    kinds: tuple[type[Any], ...]
    only: frozenset[str] | None = None
    attempt: int = 2


@dataclass(frozen=True, slots=True)
class FailLost:
    """The task was accepted and has no terminal event: it fails, unless it has a state that can be read."""

    accepted: DeliberationAccepted


@dataclass(frozen=True, slots=True)
class Adopt:
    """The end of the task is in its stream, and its state, which was set back, does not know of it."""

    event: TerminalEvent


Demand = PublishAgain | Reissue | FailLost | Adopt
"""What recovery demands. The runner decides what it means for the state as it is then."""


class Delivery(Protocol):
    """One message from JetStream, as far as the runner cares."""

    id: str
    redelivered: bool
    received_at: float
    """`time.monotonic()` when it came."""

    async def ack(self) -> None: ...
    async def retry_later(self, reason: Exception) -> None: ...


@dataclass(frozen=True, slots=True)
class Item:
    """An event or a demand, and the delivery that carried it."""

    event: Event | Demand
    delivery: Delivery


class Ticket:
    """Stands for a delivery where recovery submits something: `outcome` ends when it was applied, or could not be."""

    id = "recovery"
    redelivered = False

    def __init__(self) -> None:
        self.received_at = time.monotonic()
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.outcome.add_done_callback(_retrieve)

    async def ack(self) -> None:
        if not self.outcome.done():  # whoever waited may have been cancelled
            self.outcome.set_result(None)

    async def retry_later(self, reason: Exception) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(reason)


def _retrieve(outcome: asyncio.Future[None]) -> None:
    """Nobody may wait for it."""
    if not outcome.cancelled():
        outcome.exception()
