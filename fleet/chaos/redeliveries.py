"""Says how many deliveries that were none of the first must, and may, have been counted: by what NATS tells. Pure.

Whether such a delivery reached a process nobody else sees. But whoever settles one (`$JS.ACK.…`) had it, so that
dispatchers and collectors must have counted each that was settled. And none may have been counted that NATS has not
made: all its deliveries, less a first one of each message. In between lies what went to a process that died, or into a
broken link.

A server that is killed forgets the last deliveries, and of a consumer that is deleted nobody has seen those since the
last look at it. So many may be counted beyond that bound.

Of workers there is no lower bound: they tell of redeliveries in an answer, and of two answers one counts.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import inf
from typing import Final

from msgspec import Struct

from fleet.chaos.counters import REDELIVERED, Fact, series
from fleet.chaos.history import Backlog, InjectedFault, Settled
from fleet.jetstream.lifetimes import CONTROL_ACK_WAIT_S
from fleet.observability.metrics import CONSUMERS
from fleet.subjects import WORKERS

UNSEEN_S: Final = 2.0
"""Between two looks at a consumer: then NATS was away."""
FORGOTTEN_S: Final = 1.0
"""NATS writes what a consumer has delivered some ten times a second, on a busy machine less often."""


class _Window(Struct, frozen=True):
    began: float
    ended: float


def facts(settled: Sequence[Settled], backlogs: Sequence[Backlog], injected: Sequence[InjectedFault]) -> Iterator[Fact]:
    """What must and what may have been counted, by consumer."""
    for consumer in CONSUMERS:
        name = series(REDELIVERED, consumer=consumer)
        made = [one for one in settled if one.consumer == consumer]
        again = [one for one in made if one.delivery > 1 and consumer != WORKERS]
        # It is counted when it comes, and settled when it is handled or is to be kept.
        yield from (Fact(series=name, amount=1, since=one.at - CONTROL_ACK_WAIT_S, until=one.at) for one in again)
        looks = [look for look in backlogs if look.consumer == consumer]
        most = sum(
            _delivered_again(
                [one for one in made if one.tenant == tenant],
                sorted((look for look in looks if look.tenant == tenant), key=lambda look: look.at),
                injected,
            )
            for tenant in {look.tenant for look in looks}
        )
        yield Fact(series=name, amount=max(0, most - len(again)), since=-inf, until=inf, sure=False)


def _delivered_again(settled: Sequence[Settled], looks: Sequence[Backlog], injected: Sequence[InjectedFault]) -> int:
    """The most that can have been, of one durable, whatever it was replaced by."""
    lives: defaultdict[float, int] = defaultdict(int)
    for look in looks:
        lives[look.created] = max(lives[look.created], look.delivered)
    for one in settled:
        if created := _life_at(lives, one.at):
            lives[created] = max(lives[created], one.number)
    forgotten = sum(_forgotten(window, settled, looks) for window in _windows(looks, injected))
    return sum(lives.values()) - len({one.sequence for one in settled}) + forgotten


def _life_at(lives: dict[float, int], at: float) -> float | None:
    return max((created for created in lives if created <= at), default=None)


def _windows(looks: Sequence[Backlog], injected: Sequence[InjectedFault]) -> list[_Window]:
    """When NATS may have forgotten deliveries, or nobody has seen them; those that overlap are one."""
    unseen = [
        _Window(one.at, other.at)
        for one, other in pairwise(looks)
        if other.at - one.at > UNSEEN_S or other.created != one.created or other.delivered < one.delivered
    ]
    broken = [_Window(fault.began, fault.ended) for fault in injected if fault.target == "nats"]
    found: list[_Window] = []
    for window in sorted([*unseen, *broken], key=lambda window: window.began):
        if found and window.began <= found[-1].ended:
            found[-1] = _Window(found[-1].began, max(found[-1].ended, window.ended))
        else:
            found.append(window)
    return found


def _forgotten(window: _Window, settled: Sequence[Settled], looks: Sequence[Backlog]) -> int:
    """As many as NATS can have made since it surely knew of all, and all that were in hand then."""
    before = [look for look in looks if look.at <= window.began - FORGOTTEN_S]
    near = [look for look in looks if window.began - FORGOTTEN_S < look.at <= window.ended]
    known = before[-1].delivered if before else 0
    numbers = [one.number for one in settled if window.began - FORGOTTEN_S <= one.at <= window.ended]
    last = max([known, *numbers, *(look.delivered for look in near)])
    return last - known + max((look.unacknowledged for look in (*before[-1:], *near)), default=0)
