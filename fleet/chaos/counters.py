"""Holds what dispatchers and collectors have counted against what the streams say. Pure.

A process that is killed takes with it what it has counted since it was scraped last. What happened in such a gap may be
missing in the sum; nothing may be in it twice.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import inf
from typing import Final

from msgspec import Struct

SLACK_S = 1.0
MISSED_S = 5.0
"""Who was not scraped for so long before the end is gone."""
ACCEPTED: Final = "fleet_deliberations_accepted_total"
ENDED: Final = "fleet_deliberations_total"
CALLS: Final = "fleet_calls_total"
TOKENS: Final = "fleet_tokens_total"
REJECTIONS: Final = "fleet_rejections_total"
REDELIVERED: Final = "fleet_redelivered_total"
TOKEN_KINDS: Final = {"prompt": "prompt_tokens", "cached": "cached_tokens", "completion": "completion_tokens"}
COMPARED: Final = {
    ACCEPTED: None,
    CALLS: None,
    ENDED: "status",
    TOKENS: "kind",
    REJECTIONS: "code",
    REDELIVERED: "consumer",
}
"""Counter -> the label by which it is compared."""


class Life(Struct, frozen=True, kw_only=True):
    """One process, from when it was scraped first to when it was last; `counted` then."""

    process: str
    began: float
    first: float
    last: float
    counted: dict[str, float]


class Fact(Struct, frozen=True, kw_only=True):
    """Something that must be counted: `amount` of `series`, at some time between `since` and `until`. Not `sure`: that
    may be counted.
    """

    series: str
    amount: float
    since: float
    until: float
    sure: bool = True


def gaps(lives: Sequence[Life]) -> list[tuple[float, float]]:
    """From the last scrape of a process to the first one of the next in its place, or for ever where there is none."""
    places: defaultdict[str, list[Life]] = defaultdict(list)
    for life in sorted(lives, key=lambda life: life.first):
        places[life.process].append(life)
    found = [
        (one.last - SLACK_S, other.first + SLACK_S) for row in places.values() for one, other in itertools.pairwise(row)
    ]
    end = max((life.last for life in lives), default=0.0)
    return found + [(row[-1].last - SLACK_S, inf) for row in places.values() if row[-1].last < end - MISSED_S]


def differences(lives: Sequence[Life], facts: Sequence[Fact]) -> Iterator[tuple[str, str]]:
    """(series, what is wrong) of each whose sum is more than the facts, or less than those that fell into no gap."""
    counted: defaultdict[str, float] = defaultdict(float)
    for life in lives:
        for name, value in life.counted.items():
            counted[name] += value
    blind = gaps(lives)
    most: defaultdict[str, float] = defaultdict(float)
    least: defaultdict[str, float] = defaultdict(float)
    for fact in facts:
        most[fact.series] += fact.amount
        if fact.sure and not any(begin <= fact.until and fact.since <= end for begin, end in blind):
            least[fact.series] += fact.amount
    for series in sorted(most.keys() | {name for name in counted if name.partition("{")[0] in COMPARED}):
        if not least[series] <= counted[series] <= most[series]:
            yield series, f"{counted[series]:g} counted, {least[series]:g} to {most[series]:g} recorded"


def read(text: str) -> dict[str, float]:
    """Of `/metrics`, what is compared, by series: summed over all labels but one."""
    sums: defaultdict[str, float] = defaultdict(float)
    for line in text.splitlines():
        name, _, rest = line.partition("{")
        if name in COMPARED:
            labels, _, value = rest.rpartition("} ")
            kept = COMPARED[name]
            sums[series(name, **({kept: _label(labels, kept)} if kept else {}))] += float(value)
    return dict(sums)


def series(name: str, **labels: str) -> str:
    """Its name, with the one label by which it is compared."""
    told = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return f"{name}{{{told}}}" if told else name


def _label(labels: str, name: str) -> str:
    return labels.partition(f'{name}="')[2].partition('"')[0]
