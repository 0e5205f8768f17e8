"""Checks what each tenant may rely on, whatever was broken. Pure: each yields what contradicts it."""

from collections import Counter
from collections.abc import Iterator

import msgspec

from fleet.chaos.history import Event, History
from fleet.chaos.load import ASK_WITHIN_S, PUBLISH_WITHIN_S
from fleet.messages import TotalUsage
from fleet.tenants.names import key_of

NOTICED_WITHIN_S = 2.0
"""After a link has broken, on a machine with too much to do; and until what was subscribed counts again."""
NATS_DIES = ("kill", "term", "stop")

Found = Iterator[tuple[str, str]]


def tenants_are_apart(history: History) -> Found:
    """Each tenant's connection hears each terminal event of its own tasks once, and nothing of another's; no task is
    cancelled, and nobody is answered, by another tenant's word. An event may be missed while the connection was broken.
    """
    if history.heard is None:
        return
    ends = {event.task_id: event for event in history.events if event.terminal}
    by_digest = {event.digest: key for key, event in ends.items()}
    counts = Counter(key_of(heard.tenant, heard.task_id) for heard in history.heard)
    for heard in history.heard:
        key = key_of(heard.tenant, heard.task_id)
        if key not in ends:
            yield key, f"{heard.tenant} heard {heard.subject} of a task that is not its own"
        elif (heard.subject, heard.digest) != (ends[key].subject, ends[key].digest):
            of = by_digest.get(heard.digest, "no task that is known")
            yield key, f"{heard.tenant} heard {heard.subject} with the text of {of}"
    for key, count in counts.items():
        if count > 1:
            yield key, f"its tenant heard {count} terminal events"
    for key, event in ends.items():
        if key not in counts and not _may_be_missed(event, history):
            yield key, f"{event.tenant} has not heard its end, and its connection was not broken"
        if event.body.get("status") == "CANCELLED" and key not in history.cancels:
            yield key, f"was cancelled, and {event.tenant} has not asked for that"
    for key, reply in history.answers.items():
        end = ends.get(key)
        if end is not None and reply.get("task_id") != end.body.get("task_id") and _was_asked_anew(end, history):
            end = ends.get(key_of(end.tenant, str(reply.get("task_id"))))
        if end is not None and any(end.body.get(name) != value for name, value in reply.items()):
            yield key, f"`deliberation.ask` was answered {reply}, which its event does not say"


def tokens_of_tenants_are_true(history: History) -> Found:
    """A tenant's counters, over all days, are the sum of `usage` over all its terminal events."""
    if history.tokens is None:
        return
    used: Counter[str] = Counter()
    for event in history.events:
        if event.terminal:
            used[event.tenant] += msgspec.convert(event.body["usage"], TotalUsage).total
    for tenant in sorted(used.keys() | history.tokens.keys()):
        if used[tenant] != history.tokens.get(tenant, 0):
            yield tenant, f"{history.tokens.get(tenant, 0)} tokens counted, {used[tenant]} in its terminal events"


def _was_asked_anew(end: Event, history: History) -> bool:
    """Whether NATS may have forgotten the message id of a request without an id of its own: it was started again after
    that had been taken from its work queue. Who asks again, having heard nothing, asks for another task then.
    """
    sent = next((each for each in history.sent if each.key == end.task_id), None)
    if sent is None or sent.request.task_id is not None:
        return False
    until = sent.at + PUBLISH_WITHIN_S + ASK_WITHIN_S
    return any(began <= until and sent.at <= ended for began, ended in _restarts(history))


def _may_be_missed(event: Event, history: History) -> bool:
    """Whether its tenant's connection was broken then, or a nats-server was: of several that can be another one."""
    broken = [(outage.began, outage.ended) for outage in history.outages if outage.tenant == event.tenant]
    broken += _restarts(history)
    return any(began - NOTICED_WITHIN_S <= event.at <= ended + NOTICED_WITHIN_S for began, ended in broken)


def _restarts(history: History) -> list[tuple[float, float]]:
    """From when a nats-server was hit until it listened again."""
    return [
        (fault.began, max(fault.ended, fault.ready_at or 0.0))
        for fault in history.injected
        if fault.target == "nats" and fault.kind in NATS_DIES
    ]
