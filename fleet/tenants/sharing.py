"""Decides who begins next: start-time fair queuing over tenants, in tokens. Dispatchers ask it of deliberations, and
workers of calls that wait for a seat of a model server; "deliberation" stands for both here.

A tenant's service is what its deliberations have used, and what those that are open are expected to use, divided by its
weight. Of the tenants with a request that waits the one with the least service is next. So shares of tokens follow the
weights while several tenants wait, and whoever waits alone gets everything.

A tenant that had nothing waiting gains nothing by that: once it waits again its service is raised to what the others
have used (the virtual time). What these have begun counts against them: the one that comes back may have as much in
progress. What a deliberation is expected to use is the mean of the tenant's last ones; while none has ended, what its
request lets expect. Once it ends, what it has used takes the place of that: an error does not last.

Calls that are stopped, by a cancellation or a deadline, tell no tokens. So such a deliberation counts at least what
others would have used in its time: who cancels everything has no more than its share.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

FADES: Final = 0.9
"""What an older deliberation counts beside the next one."""


class Shares:
    """Of one process. Each of several dispatchers hears of every end and sees what is open, and so comes to the same
    shares; a worker knows its own calls."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._used: defaultdict[str, float] = defaultdict(float)
        self._means: dict[str, float] = {}
        self._durations_ms: dict[str, float] = {}
        self._raised: defaultdict[str, float] = defaultdict(float)
        self._waiting: frozenset[str] = frozenset()
        self._time = 0.0

    def ended(self, tenant: str, tokens: int, duration_ms: float, *, complete: bool = True) -> None:
        """A deliberation has used so many. `complete`: all its calls have told; else it was at least so many."""
        if not complete:
            self._used[tenant] += max(tokens, self._rate(tenant) * duration_ms)
            return
        self._used[tenant] += tokens
        for means, value in ((self._means, float(tokens)), (self._durations_ms, duration_ms)):
            means[tenant] = FADES * means.get(tenant, value) + (1 - FADES) * value

    def _rate(self, tenant: str) -> float:
        """Tokens in a millisecond of one of its deliberations; where none has told, of those of the others."""
        rates = {name: self._means[name] / ms for name, ms in self._durations_ms.items() if ms}
        return rates.get(tenant) or sum(rates.values()) / max(1, len(rates))

    def next(self, waiting: Mapping[str, float], open_: Mapping[str, int]) -> str:
        """One of the tenants that have a request waiting. `waiting`: the tokens that the first of these lets expect;
        `open_`: deliberations that have not ended, by tenant. Of equals who has fewer of these is next.
        """
        self.see(waiting, open_)
        return self.least(waiting, open_)

    def see(self, waiting: Mapping[str, float], open_: Mapping[str, int]) -> None:
        """All tenants that wait now, also those whose turn it is at once: the time goes on."""
        for tenant, expected in waiting.items():
            self._means.setdefault(tenant, expected)
        stayed = [self._service(tenant, {}) for tenant in self._waiting.intersection(waiting)]
        self._time = max(self._time, min(stayed, default=self._time))
        for tenant in waiting.keys() - self._waiting:
            self._raised[tenant] += max(0.0, self._time - self._service(tenant, open_))
        self._waiting = frozenset(waiting)

    def least(self, tenants: Iterable[str], open_: Mapping[str, int]) -> str:
        """Of some that were seen, the one that is next. Nothing is changed: `open_` may be what would be."""
        return min(sorted(tenants), key=lambda tenant: (round(self._service(tenant, open_)), open_.get(tenant, 0)))

    def _service(self, tenant: str, open_: Mapping[str, int]) -> float:
        expected = open_.get(tenant, 0) * self._means.get(tenant, 0.0)
        return (self._used[tenant] + expected) / self._weights.get(tenant, 1.0) + self._raised[tenant]
