"""How long it took to go on, and what was done twice: measured from the record. Pure."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from fleet import subjects
from fleet.chaos.history import Backlog, Event, History, Injected, ModelCall

TAKEN_OVER_WITHIN_S = 10.0
RESUMED_WITHIN_S = 5.0
CALLS_SLACK_S = 3.0
ALONE_S = 12.0
DEAD_WITHIN_S = 2.0
"""A call of a killed worker is seen to be aborted by then."""

_CONSUMER = {"dispatcher": subjects.DISPATCHER, "collector": subjects.COLLECTOR}


class Recovery(Struct, frozen=True, kw_only=True):
    """One kind of recovery: the longest time of `times`, and what it should not exceed. In seconds."""

    what: str
    bound_s: float
    times: tuple[float, ...]

    @property
    def longest_s(self) -> float | None:
        return max(self.times, default=None)


class Repeated(Struct, frozen=True, kw_only=True):
    """Model calls made, and needed (one per agent call); `aborted` had to be left because somebody died or stopped
    waiting; `again` were made although another attempt at the same call had been answered well. `in_flight`: open
    while something was broken.
    """

    calls: int
    needed: int
    aborted: int
    again: int
    in_flight: int


def recoveries(history: History, ack_wait_s: float) -> tuple[Recovery, ...]:
    """Only of faults that no other fault got in the way of."""
    alone = [injected for injected in history.injected if _is_alone(injected, history.injected)]
    calls = history.calls or ()
    return (
        Recovery(
            what="killed dispatcher or collector: everything it held is done",
            bound_s=TAKEN_OVER_WITHIN_S,
            times=tuple(_take_overs(alone, history.backlogs)),
        ),
        Recovery(
            what="killed worker: its calls run again",
            bound_s=ack_wait_s + CALLS_SLACK_S,
            times=tuple(_calls_again(alone, calls)),
        ),
        Recovery(
            what="NATS started again: work resumes",
            bound_s=RESUMED_WITHIN_S,
            times=tuple(_resumed(alone, calls, history.events)),
        ),
    )


def repeated(history: History) -> Repeated | None:
    """None where the model server keeps no record."""
    if history.calls is None:
        return None
    answered: dict[str, int] = defaultdict(int)
    for call in history.calls:
        answered[call.call_id] += call.outcome == "completed"
    broken = [(injected.began, injected.ended) for injected in history.injected if _disturbs(injected)]
    return Repeated(
        calls=len(history.calls),
        needed=len(answered),
        aborted=sum(call.outcome == "aborted" for call in history.calls),
        again=sum(max(0, count - 1) for count in answered.values()),
        in_flight=sum(
            any(call.started <= ended and began <= (call.ended or ended) for began, ended in broken)
            for call in history.calls
        ),
    )


def _is_alone(one: Injected, others: Iterable[Injected]) -> bool:
    until = one.began + ALONE_S
    return not any(
        other is not one and _disturbs(other) and other.began < until and other.ended > one.began for other in others
    )


def _disturbs(injected: Injected) -> bool:
    return injected.kind not in ("responses", "malformed", "model")


def _take_overs(alone: Iterable[Injected], backlogs: Sequence[Backlog]) -> Iterator[float]:
    """Until all that its stream held at the time of death was acknowledged, as far as samples tell."""
    by_consumer: dict[str, list[Backlog]] = defaultdict(list)
    for backlog in backlogs:
        by_consumer[backlog.consumer].append(backlog)
    for injected in alone:
        consumer = _CONSUMER.get(injected.target)
        if injected.kind not in ("kill", "term") or consumer is None:
            continue
        samples = by_consumer[consumer]
        at = bisect_right(samples, injected.began, key=lambda backlog: backlog.at)
        if at == 0 or at == len(samples):
            continue
        wanted = samples[at].last
        done = next((sample.at for sample in samples[at:] if sample.floor >= wanted), None)
        if done is not None:
            yield max(0.0, done - injected.began)


def _calls_again(alone: Iterable[Injected], calls: Sequence[ModelCall]) -> Iterator[float]:
    """From the kill until the next attempt at a call that was open then."""
    later: dict[str, list[float]] = defaultdict(list)
    for call in calls:
        later[call.call_id].append(call.started)
    for injected in alone:
        if injected.kind not in ("kill", "term") or injected.target not in ("actor", "actors"):
            continue
        for call in calls:
            died = call.outcome == "aborted" and call.ended is not None
            again = [at for at in later[call.call_id] if at > injected.began]
            if died and again and call.started < injected.began <= (call.ended or 0.0) < injected.began + DEAD_WITHIN_S:
                yield min(again) - injected.began


def _resumed(alone: Iterable[Injected], calls: Sequence[ModelCall], events: Sequence[Event]) -> Iterator[float]:
    """From when NATS listens again until a call begins or an event is stored."""
    moments = sorted([*(call.started for call in calls), *(event.at for event in events)])
    for injected in alone:
        if injected.target == "nats" and injected.kind in ("kill", "term") and injected.ready_at is not None:
            at = bisect_right(moments, injected.ready_at)
            if at < len(moments):
                yield moments[at] - injected.ready_at
