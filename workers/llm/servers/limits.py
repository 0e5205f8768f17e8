"""Divides the limits of one endpoint among all workers of a fleet. Pure: the time is passed in.

The workers have one record for each endpoint, and change it one after the other (compare-and-set). A call begins once
it was granted there to its worker.

    limit                what the record holds                     a call is granted while
    ───────────────────────────────────────────────────────────────────────────────────────────────────
    max_concurrency      the seats of each worker                  fewer seats are taken than there are
    requests_per_minute  a level that fills with time              it is at least 1, which is taken
    tokens_per_minute    a level that fills with time              it is above 0; the expected tokens are taken, and
                                                                   corrected by those that were used
    ───────────────────────────────────────────────────────────────────────────────────────────────────

A level is never more than a twenty-fifth of a minute's worth: any minute sees at most 4 % more, and one call. Where the
calls of all workers want more than there is, each worker gets an equal part, or what it wants if that is less.
"""

from collections.abc import Collection, Mapping

from msgspec import Struct, structs

from fleet.model_servers import EndpointConfig

BURST = 0.04
MINUTE_MS = 60_000
TURN_MS = 2_000
"""Where there are fewer seats than workers, others get them after so long."""


class Holder(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One worker at one endpoint. `beat` changes as long as it lives; `wants`: seats, those that it has included."""

    beat: int
    seats: int = 0
    wants: int = 0


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of one endpoint. Levels as they were at `at_ms`; None: never written, or no such limit."""

    at_ms: int = 0
    requests: float | None = None
    tokens: float | None = None
    workers: dict[str, Holder] = {}


class Need(Struct, frozen=True, kw_only=True):
    """What one worker has and wants: calls that are open, the expected tokens of each that waits, and what must still
    be taken from the levels (negative: what was taken and not used).
    """

    open_calls: int = 0
    waiting: tuple[int, ...] = ()
    requests: int = 0
    tokens: float = 0.0


class Grant(Struct, frozen=True, kw_only=True):
    """`calls`: so many of those that wait may begin. `part`: seats that the worker should have at most, None: any
    number. `again_s`: until a level may allow another call.
    """

    calls: int
    part: int | None = None
    again_s: float = 0.0


def settle(
    record: Record,
    limits: EndpointConfig,
    worker: str,
    need: Need,
    *,
    now_ms: int,
    beat: int,
    lost: Collection[str] = (),
) -> tuple[Record, Grant]:
    """The record after this worker's turn, and what it was granted. `lost`: workers whose seats are free again."""
    now_ms = max(now_ms, record.at_ms)  # clocks differ: time is that of the fastest one
    minutes = (now_ms - record.at_ms) / MINUTE_MS
    requests = _filled(record.requests, limits.requests_per_minute, minutes, -need.requests)
    tokens = _filled(record.tokens, limits.tokens_per_minute, minutes, -need.tokens)
    others = {name: held for name, held in record.workers.items() if name != worker and name not in lost}

    wants = need.open_calls + len(need.waiting)
    part = None
    calls = len(need.waiting)
    if limits.max_concurrency is not None:
        demands = {**{name: max(held.wants, held.seats) for name, held in others.items()}, worker: wants}
        part = part_of(limits.max_concurrency, demands, worker, turn=now_ms // TURN_MS)
        free = limits.max_concurrency - sum(held.seats for held in others.values())
        calls = max(0, min(wants, part, free) - need.open_calls)

    waiting = len(need.waiting) + sum(max(0, held.wants - held.seats) for held in others.values())
    fair = len(need.waiting) / max(1, waiting)
    most = calls if requests is None else max(1, int(requests * fair))
    least = 0.0 if tokens is None else max(0.0, tokens * (1 - fair))
    granted = 0
    for expected in need.waiting[: min(calls, most)]:
        if (requests is not None and requests < 1.0) or (tokens is not None and tokens <= least):
            break
        requests = None if requests is None else requests - 1.0
        tokens = None if tokens is None else tokens - expected
        granted += 1
    again_s = max(_wait_s(requests, limits.requests_per_minute, 1.0), _wait_s(tokens, limits.tokens_per_minute, 0.001))
    seats = need.open_calls + granted
    workers = dict(others)
    if wants:
        workers[worker] = Holder(beat=beat, seats=seats, wants=wants)
    changed = Record(at_ms=now_ms, requests=requests, tokens=tokens, workers=workers)
    return changed, Grant(calls=granted, part=part, again_s=again_s)


def part_of(seats: int, wants: Mapping[str, int], worker: str, turn: int = 0) -> int:
    """How many of the seats this worker should have: equal parts, and what others do not want besides.

    What cannot be divided goes round by `turn`. Where there is enough for all: all that others do not want.
    """
    if sum(wants.values()) <= seats:
        return seats - sum(want for name, want in wants.items() if name != worker)
    names = sorted(name for name, want in wants.items() if want)
    order = {name: (position + turn) % len(names) for position, name in enumerate(names)}
    left = seats
    parts: dict[str, int] = {}
    # Who wants least comes first; of those who want the same, one more seat goes to the last ones.
    for position, name in enumerate(sorted(names, key=lambda each: (wants[each], order[each]))):
        parts[name] = min(wants[name], left // (len(names) - position))
        left -= parts[name]
    return parts.get(worker, 0)


def without(record: Record, worker: str) -> Record:
    """After the worker has left."""
    return structs.replace(record, workers={name: held for name, held in record.workers.items() if name != worker})


def is_limited(config: EndpointConfig) -> bool:
    """Whether calls to this endpoint must be granted."""
    return any((config.max_concurrency, config.requests_per_minute, config.tokens_per_minute))


def has_rates(config: EndpointConfig) -> bool:
    """Whether each call must be granted anew: a seat alone can be used again."""
    return config.requests_per_minute is not None or config.tokens_per_minute is not None


def _filled(level: float | None, per_minute: float | None, minutes: float, change: float) -> float | None:
    if per_minute is None:
        return None
    most = max(1.0, per_minute * BURST)
    return min(most, (most if level is None else min(most, level + minutes * per_minute)) + change)


def _wait_s(level: float | None, per_minute: float | None, least: float) -> float:
    if level is None or per_minute is None or level >= least:
        return 0.0
    return (least - level) * 60 / per_minute
