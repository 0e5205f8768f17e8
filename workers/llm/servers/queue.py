"""Keeps the calls of one worker that wait for an endpoint, and says which of them are next.

Of one tenant it is who came first. Where there are tenants, their shares in tokens decide whose call that is, as they
do in admission (`fleet.tenants.sharing`): whoever asks for little waits until a seat is free, and not behind all that
others have waiting.
"""

from asyncio import Event
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from itertools import islice

from msgspec import Struct

from fleet.tenants.sharing import Shares


class Waiting(Struct, frozen=True, kw_only=True):
    """A call that waits. `wants`: endpoints that it would take if they had room; `asks`: it waits for the answer of
    one that may have. `model`: the one that it asks for first.
    """

    tenant: str
    is_suspect: bool
    expected_tokens: int
    wants: frozenset[str]
    asks: bool
    model: str


class Queue:
    """Calls go by the event that wakes them. `weights`: of tenants; empty where there are none."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._shares = Shares(weights) if weights else None
        self._calls: dict[str, dict[Event, Waiting]] = {}
        """By tenant."""
        self._open: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Waiting]:
        for calls in self._calls.values():
            yield from calls.values()

    def put(self, call: Event, waiting: Waiting) -> None:
        """A call that is here already keeps its place."""
        self._calls.setdefault(waiting.tenant, {})[call] = waiting

    def drop(self, call: Event, tenant: str) -> None:
        """It waits no longer, or never has."""
        calls = self._calls.get(tenant, {})
        calls.pop(call, None)
        if not calls:
            self._calls.pop(tenant, None)

    def wake_all(self) -> None:
        for calls in self._calls.values():
            for call in calls:
                call.set()

    def wake(self, endpoint: str, most: int) -> None:
        """Those that are next at this endpoint."""
        for call, _ in self._next(endpoint, most):
            call.set()

    def wanting(self, endpoint: str, *, in_turn: bool) -> list[Waiting]:
        """Those that would begin at this endpoint; `in_turn`: in the order in which `wake` wakes them."""
        if in_turn and len(self._calls) > 1:
            return [waiting for _, waiting in self._next(endpoint, sum(map(len, self._calls.values())))]
        return [each for each in self if endpoint in each.wants]

    def wake_who_asks(self, endpoint: str) -> None:
        """Where there is no room they look elsewhere."""
        for calls in self._calls.values():
            for call, waiting in calls.items():
                if waiting.asks and endpoint in waiting.wants:
                    call.set()

    def begun(self, tenant: str, expected_tokens: int) -> None:
        """A call of the tenant was begun, whether it has waited or not."""
        self._see({tenant: float(expected_tokens)})
        self._open[tenant] += 1

    def ended(self, tenant: str, tokens: int, duration_s: float, *, complete: bool) -> None:
        """It has used so many. `complete`: it has told all of them."""
        self._open[tenant] -= 1
        if self._shares is not None:
            self._shares.ended(tenant, tokens, 1000 * duration_s, complete=complete)

    def _see(self, begins: Mapping[str, float]) -> None:
        """Who waits, and who begins, which has waited for no time at least: else it would be charged for a time at
        which nobody waited.
        """
        if self._shares is not None:
            first = {tenant: next(iter(calls.values())) for tenant, calls in self._calls.items()}
            waiting = {tenant: float(each.expected_tokens) for tenant, each in first.items()}
            self._shares.see({**waiting, **begins}, self._open)

    def _next(self, endpoint: str, most: int) -> Iterator[tuple[Event, Waiting]]:
        """The calls that are next at this endpoint, the first one first."""
        if not self._calls:
            return
        self._see({})
        wanting = {tenant: _wanting(calls, endpoint, most) for tenant, calls in self._calls.items()}
        wanting = {tenant: calls for tenant, calls in wanting.items() if calls}
        begins = self._open.copy()
        while wanting and most > 0:
            tenant = next(iter(wanting)) if self._shares is None else self._shares.least(wanting, begins)
            yield wanting[tenant].popleft()
            begins[tenant] += 1
            most -= 1
            if not wanting[tenant]:
                del wanting[tenant]


def _wanting(calls: Mapping[Event, Waiting], endpoint: str, most: int) -> deque[tuple[Event, Waiting]]:
    return deque(islice((each for each in calls.items() if endpoint in each[1].wants), most))
