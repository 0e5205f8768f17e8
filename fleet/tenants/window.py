"""Bounds what one dispatcher has in progress while that slows somebody down who asks for little: pure, with the clock
passed in.

Between the models stand a dozen steps of several processes. Where more deliberations are in progress than these can
move on at once, they wait at each step, everybody behind everybody. A tenant with one request then waits behind all
that another one has begun, however requests are admitted.

Each end tells how much of its time no model was at work: its overhead. The least that some deliberations of the same
tenant and size had lately is what it takes without a queue. What is more than that was waited.

| of a tenant below its share | what happens |
|---|---|
| one deliberation took twice as long as it would without waiting, or longer | the window falls by as much |
| some took longer by a twelfth | the window falls a little |
| they took no longer | the window grows |
| none has ended for `KEPT_S` | there is no window any more |

While there is a window so many deliberations are in progress, and of each tenant at least its share of them. It does
not fall below a part of what the fleet carries: where six are in progress and each takes twice its time, three keep it
as busy. Whoever is alone has no window. Where models take most of the time, waiting is no matter, and there is none
either.
"""

from collections import defaultdict, deque
from collections.abc import Collection, Mapping
from math import inf, sqrt
from statistics import stdev
from typing import Final, NamedTuple

TOO_LONG: Final = 0.08
"""Waited, of the time that it takes without."""
UNNOTICED_MS: Final = 3.0
"""Times are told in milliseconds, and differ by as much where nobody waits."""
SOME: Final = 4
"""One deliberation says little: chance makes as much of a difference."""
SURELY: Final = 1.0
"""Spreads by which some must differ: the least of many is less than usual by chance, and one of many is more."""
FALLS: Final = 0.85
FALLS_FAR: Final = 0.25
"""At most: by as much as one that took twice as long, or longer, took longer."""
GROWS: Final = 0.05
"""The least part by which it grows; else by one."""
LEAST: Final = 1.0
CARRIED: Final = 0.7
"""Of what the fleet carries without a queue, at least so much is in progress: nobody waits for no time at the price of
models that have nothing to do."""
KEPT_S: Final = 3.0
"""Or for twice the time of the last one: who asks one question after the other may think for as long."""
REMEMBERED_S: Final = 900.0
"""A least overhead, and the most that was carried, count for once to twice as long."""


class Took(NamedTuple):
    """What a completed deliberation took. `calls` and `agents`: with the tenant, its size. As many calls of fewer
    agents are more phases, one after the other."""

    duration_ms: float
    overhead_ms: float
    calls: int
    agents: int


class Usual(NamedTuple):
    """Overheads of some deliberations: their mean, and by how much one differs from it."""

    ms: float
    spread_ms: float


class _Begun(NamedTuple):
    """When, and how many were in progress from then on."""

    at: float
    beside: int


_Size = tuple[str, int, int]


class Window:
    """Of one dispatcher, over what it has admitted itself: several come to windows of their own."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._open: defaultdict[str, dict[str, _Begun]] = defaultdict(dict)
        self._size: float | None = None
        self._fell_at = self._needed_until = float("-inf")
        self._some: defaultdict[_Size, list[Took]] = defaultdict(list)
        self._carried: deque[float] = deque(maxlen=SOME)
        """As the last ones that waited for others tell it."""
        self._least: dict[_Size, Usual] = {}
        self._least_before: dict[_Size, Usual] = {}
        self._most_carried = self._most_carried_before = 0.0
        self._least_since = float("-inf")

    def begun(self, tenant: str, key: str, now: float) -> None:
        """A deliberation was admitted."""
        self._open[tenant][key] = _Begun(now, self._count + 1)

    def has_begun(self, tenant: str) -> bool:
        """Whether one of the tenant's is in progress."""
        return bool(self._open[tenant])

    def keep(self, running: Collection[str], before: float) -> None:
        """Forgets those that began `before` and do not run: their ends were not heard."""
        for begun in self._open.values():
            for key in [key for key, one in begun.items() if one.at < before and key not in running]:
                del begun[key]

    def admits(self, tenant: str, waiting: Collection[str], now: float) -> bool:
        """Whether one more of this tenant's may begin. `waiting`: tenants with requests that wait."""
        if self._size is None or now > self._needed_until:
            self._size = None
            return True
        share = self._share(tenant, waiting, self._size)
        return self._count + 1 <= self._size or len(self._open[tenant]) + 1 <= share

    def ended(self, tenant: str, key: str, took: Took | None, waiting: Collection[str], now: float) -> None:
        """One of any dispatcher's has ended; None: it did not complete."""
        count, of_tenant = self._count, len(self._open[tenant])
        has_little = tenant not in waiting and of_tenant <= self._share(tenant, waiting, self._size or count)
        begun = self._open[tenant].pop(key, None)
        if took is None or now - took.duration_ms / 1000 <= self._fell_at:  # it began in another window
            return
        self._forget(now)
        size = (tenant, took.calls, took.agents)
        some = self._some[size]
        some.append(took)
        mean = Took(*(sum(values) / len(some) for values in zip(*some, strict=True)))
        if len(some) == SOME:
            del self._some[size]
            usual = Usual(mean.overhead_ms, stdev(each.overhead_ms for each in some))
            self._least[size] = min(usual, self._least.get(size, usual))
        if not has_little or (count == of_tenant and self._size is None):
            return
        self._needed_until = now + max(KEPT_S, 2 * took.duration_ms / 1000)
        least = self._least_of(size)
        waits = _waits(took, least.ms + SURELY * least.spread_ms)
        if begun is not None:
            self._carried.append(min(count, begun.beside) / (1 + waits))
            if len(self._carried) == SOME:
                self._most_carried = max(self._most_carried, sum(self._carried) / SOME)
        if waits > 1.0:
            self._fall(max(FALLS_FAR, 1 / (1 + waits)), count, now)
        elif len(some) == SOME:
            if _waits(mean, least.ms + SURELY * least.spread_ms / sqrt(SOME)) > TOO_LONG:
                self._fall(FALLS, count, now)
            elif self._size is not None:
                grown = self._size + max(1.0, GROWS * self._size)
                self._size = min(grown, max(self._size, 2.0 * count))

    def _fall(self, to: float, count: int, now: float) -> None:
        least = max(LEAST, CARRIED * max(self._most_carried, self._most_carried_before))
        self._size = max(least, to * min(count, self._size or count))
        self._fell_at = now
        self._some.clear()

    @property
    def _count(self) -> int:
        return sum(map(len, self._open.values()))

    def _share(self, tenant: str, waiting: Collection[str], size: float) -> float:
        """Of so many, at least one."""
        active = {tenant, *waiting, *(name for name, begun in self._open.items() if begun)}
        weights = {name: self._weights.get(name, 1.0) for name in active}
        return max(1.0, size * weights[tenant] / sum(weights.values()))

    def _forget(self, now: float) -> None:
        if now - self._least_since > REMEMBERED_S:
            self._least_before, self._least, self._least_since = self._least, {}, now
            self._most_carried_before, self._most_carried = self._most_carried, 0.0
            self._some.clear()

    def _least_of(self, size: _Size) -> Usual:
        found = [times[size] for times in (self._least_before, self._least) if size in times]
        return min(found, default=Usual(inf, 0.0))


def _waits(took: Took, least_ms: float) -> float:
    """How long it waited, beside the time that it takes without."""
    waited_ms = max(0.0, took.overhead_ms - least_ms - UNNOTICED_MS)
    return waited_ms / max(1.0, took.duration_ms - waited_ms)
