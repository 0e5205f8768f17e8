"""Defines a request that waits for room, and what decides when it begins."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Holdable(Protocol):
    """A delivery as far as admission cares; `fleet.control.intake.JetStreamDelivery` is the real one."""

    async def keep(self) -> None: ...
    async def hand_back(self) -> None: ...


class Turn(Protocol):
    """To count and to begin, alone among all dispatchers; `fleet.control.admitting.turns.Turns` is the real one."""

    async def take(self) -> bool: ...
    async def keep(self) -> None: ...
    async def give_back(self) -> None: ...


class Queued(Protocol):
    """Calls and answers that wait for a process; `fleet.control.admitting.backlog.Backlog` is the real one."""

    @property
    def has_room(self) -> bool: ...
    def begin(self, calls: int, recorded: asyncio.Future[None]) -> None: ...
    async def look(self) -> None: ...


Admit = Callable[[], asyncio.Future[None]]
"""Begins a deliberation. What it returns ends once that is recorded, or has failed; it must not be cancelled."""


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A request that waits here. `expected`: tokens, for tenants. `urgency`: a higher one goes first.
    `calls`: with which it begins."""

    key: str
    delivery: Holdable
    admit: Admit
    tenant: str
    expected: float
    urgency: int
    calls: int
