"""Measures from the record how long recovery took, and what was done twice. Pure."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec import Struct

from fleet import crashpoints, subjects
from fleet.chaos.history import Backlog, Event, History, InjectedFault, ModelCall

TAKEN_OVER_WITHIN_S = 10.0
RESUMED_WITHIN_S = 5.0
CALLS_SLACK_S = 3.0
ALONE_S = 12.0
DEAD_WITHIN_S = 2.0
"""A call of a killed worker is seen to be aborted by then."""
ACKNOWLEDGED_WITHIN_S = 2.0
"""After the model has said its last word, on a machine with too much to do."""

CONTROL_PLANE: Final = ("dispatcher", "collector")
CALLS_PASS: Final = (subjects.WORKERS, subjects.AGENT_REQUESTS, subjects.AGENT_RESPONSES, "store")
"""What a call and its answer pass through, and may be caught in."""
RAY: Final = ("raylet", "gcs")
RAY_FALLS_WITHIN_S = 15.0
"""After one of these has died: the local head is started again, and takes its actors with it."""

PUBLISHED_AGAIN_WITHIN_S = 6.0
"""After NATS has come back: what was published as it died is given up by then, and published again. Of one that was
killed it may be stored already, and not be known for the same."""

_CONSUMER = {"dispatcher": subjects.DISPATCHER, "collector": subjects.COLLECTOR}


class Recovery(Struct, frozen=True, kw_only=True):
    """One kind of recovery: the longest time of `times`, and what it should not exceed. In seconds."""

    what: str
    bound_s: float
    times: tuple[float, ...]

    @property
    def longest_s(self) -> float | None:
        return max(self.times, default=None)


class RepeatedCalls(Struct, frozen=True, kw_only=True):
    """Model calls made, and needed (one per agent call); `aborted` had to be left because somebody died or stopped
    waiting; `again` were made although another attempt at the same call had been answered well. `in_flight`: needed
    ones that were in flight while something was broken that could strand them; `without_need`: those answered again
    that were not.
    """

    calls: int
    needed: int
    aborted: int
    again: int
    in_flight: int
    without_need: tuple[str, ...] = ()


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


def repeated(history: History) -> RepeatedCalls | None:
    """None where the model server keeps no record."""
    if history.calls is None:
        return None
    attempts: dict[str, list[ModelCall]] = defaultdict(list)
    for call in history.calls:
        if call.call_id:  # those of `fleet up`, which asks the server once, belong to no task
            attempts[call.call_id].append(call)
    answered = {call_id: sum(one.outcome == "completed" for one in made) for call_id, made in attempts.items()}
    stranded = {call_id for call_id, made in attempts.items() if _was_stranded(made, history.injected)}
    return RepeatedCalls(
        calls=len(history.calls),
        needed=len(attempts),
        aborted=sum(call.outcome == "aborted" for call in history.calls),
        again=sum(max(0, count - 1) for count in answered.values()),
        in_flight=len(stranded),
        without_need=tuple(call_id for call_id, count in answered.items() if count > 1 and call_id not in stranded),
    )


def _was_stranded(attempts: Sequence[ModelCall], injected: Sequence[InjectedFault]) -> bool:
    """Whether something broke from when the first of them began until an answer was stored and acknowledged."""
    began = min(call.started for call in attempts)
    answered = min((call.ended or call.started for call in attempts if call.outcome == "completed"), default=began)
    until = answered + ACKNOWLEDGED_WITHIN_S
    return any(one.began <= until and began <= _over_at(one) for one in injected if _strands_calls(one))


def _over_at(injected: InjectedFault) -> float:
    over_at = max(injected.ended, injected.ready_at or 0.0)
    if injected.target == "nats":
        return over_at + PUBLISHED_AGAIN_WITHIN_S
    return over_at + RAY_FALLS_WITHIN_S if injected.target in RAY else over_at


def _strands_calls(injected: InjectedFault) -> bool:
    """Whether calls may have to be made again because of it: not where it hit the control plane alone."""
    match injected.kind:
        case "kill" | "term" | "stop" | "roll" | "partition" | "cut":
            return injected.target not in CONTROL_PLANE
        case "crash":
            return injected.target in crashpoints.WORKER
        case "delete" | "full":
            return injected.target in CALLS_PASS
        case "model":  # frozen: it is taken for lost, and says to the end what it was asked when it goes on
            return injected.target == "stop"
        case _:
            return False


def _is_alone(one: InjectedFault, others: Iterable[InjectedFault]) -> bool:
    until = one.began + ALONE_S
    return not any(
        other is not one and _disturbs(other) and other.began < until and other.ended > one.began for other in others
    )


def _disturbs(injected: InjectedFault) -> bool:
    return injected.kind not in ("responses", "malformed", "model")


def _take_overs(alone: Iterable[InjectedFault], backlogs: Sequence[Backlog]) -> Iterator[float]:
    """Until all that its streams held at the time of death was acknowledged, as far as samples tell."""
    by_consumer: dict[str, dict[str, list[Backlog]]] = defaultdict(lambda: defaultdict(list))
    for backlog in backlogs:
        by_consumer[backlog.consumer][backlog.tenant].append(backlog)
    for injected in alone:
        consumer = _CONSUMER.get(injected.target)
        if injected.kind not in ("kill", "term") or consumer is None:
            continue
        done = [_done_at(samples, injected.began) for samples in by_consumer[consumer].values()]
        known = [at for at in done if at is not None]
        if known and len(known) == len(done):
            yield max(0.0, max(known) - injected.began)


def _done_at(samples: Sequence[Backlog], since: float) -> float | None:
    """When all that the stream held at `since` was acknowledged; None where the samples do not tell."""
    at = bisect_right(samples, since, key=lambda backlog: backlog.at)
    if at == 0 or at == len(samples):
        return None
    held = samples[at].last
    return next((sample.at for sample in samples[at:] if sample.floor >= held), None)


def _calls_again(alone: Iterable[InjectedFault], calls: Sequence[ModelCall]) -> Iterator[float]:
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


def _resumed(alone: Iterable[InjectedFault], calls: Sequence[ModelCall], events: Sequence[Event]) -> Iterator[float]:
    """From when NATS listens again until a call begins or an event is stored."""
    moments = sorted([*(call.started for call in calls), *(event.at for event in events)])
    for injected in alone:
        if injected.target == "nats" and injected.kind in ("kill", "term") and injected.ready_at is not None:
            at = bisect_right(moments, injected.ready_at)
            if at < len(moments):
                yield moments[at] - injected.ready_at
