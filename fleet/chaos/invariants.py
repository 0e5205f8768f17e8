"""Checks what must hold of a history, whatever was broken. Pure: each invariant yields what contradicts it."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Final

from msgspec import Struct

from fleet import subjects
from fleet.chaos import redeliveries
from fleet.chaos.cluster import WHOLE
from fleet.chaos.counters import ACCEPTED, CALLS, ENDED, REJECTIONS, TOKEN_KINDS, TOKENS, Fact, differences, series
from fleet.chaos.history import Event, History
from fleet.chaos.recovery import repeated
from fleet.chaos.tenants.cached import cached_results_are_ones_own
from fleet.chaos.tenants.invariants import tenants_are_apart, tokens_of_tenants_are_true
from workers.simulator.chat import digest_of

MEMORY_GROWTH = 2.0
MEMORY_SLACK_BYTES = 150 * 1024 * 1024
MEMORY_LEAST_SAMPLES = 20
MOST_COMPARISONS = 3 * 3 * 2


class Violation(Struct, frozen=True, kw_only=True):
    """`invariant` is broken; `where` names the task, request or consumer."""

    invariant: str
    where: str
    detail: str


Found = Iterator[tuple[str, str]]
"""(where, detail) of each contradiction."""


def one_end(history: History) -> Found:
    """Every accepted task has exactly one terminal event in the stream, and nothing else has one."""
    ends = Counter(event.task_id for event in history.events if event.terminal)
    accepted = Counter(event.task_id for event in history.events if event.subject == subjects.ACCEPTED)
    for task_id in accepted:
        if ends[task_id] != 1:
            yield task_id, f"{ends[task_id]} terminal events"
    for task_id in ends.keys() - accepted.keys():
        yield task_id, "a terminal event without deliberation.accepted"


def one_end_seen_live(history: History) -> Found:
    """No core subscriber sees a second terminal event of a task."""
    for task_id, count in Counter(task_id for _, task_id in history.live).items():
        if count > 1:
            yield task_id, f"{count} terminal events seen by one core subscriber"


def every_request_is_answered(history: History) -> Found:
    """Whatever got a PubAck was accepted or rejected, as its kind demands."""
    accepted = history.accepted
    rejected = {event.answers: event.body.get("code") for event in history.events if event.subject == subjects.REJECTED}
    own = {event.answers for event in accepted.values()}
    bodies = {(sent.request.tenant, sent.sequence): sent.request.body for sent in history.sent}
    for sent in history.sent:
        if sent.sequence is None:
            continue  # its publisher knows
        tenant, request = sent.request.tenant, (sent.request.tenant, sent.sequence)
        where, code = f"request {sent.sequence} of {tenant} ({sent.request.kind})", rejected.get(request)
        if sent.request.kind in ("malformed", "invalid", "oversized"):
            if code not in ("malformed", "invalid"):
                yield where, f"neither accepted nor rejected as bad: {code}"
        elif request in own:
            if code is not None:
                yield where, f"accepted, and rejected as {code}"
        elif sent.key not in accepted:
            yield where, f"{sent.key} was never accepted"
        else:
            first = bodies.get(accepted[sent.key].answers)
            # None: the PubAck of the one that came first was lost, so nobody knows which of them it was.
            if first is not None and (first != sent.request.body) != (code == "conflict"):
                yield where, f"same id, {'same' if first == sent.request.body else 'another'} request, answered {code}"


def cancelled_is_cancelled(history: History) -> Found:
    """What a reply to `deliberation.cancel` says is what the terminal event says."""
    ends = {event.task_id: event.body.get("status") for event in history.events if event.terminal}
    for task_id, status in history.cancels.items():
        if status != "UNANSWERED" and task_id in ends and ends[task_id] != status:
            yield task_id, f"the reply to the cancellation said {status}, the event {ends[task_id]}"


def proposals_are_the_models(history: History) -> Found:
    """Every text in a result was said, to its end, by the model server."""
    if history.calls is None:
        return
    said = {call.digest for call in history.calls if call.outcome == "completed"}
    for event in _completed(history):
        for entry in event.body["results"]:
            if digest_of(entry["proposal"]["content"]) not in said:
                yield event.task_id, f"{entry['agent_id']}: the model never said {entry['proposal']['content'][:60]!r}"
        if (synthesis := event.body.get("synthesis")) and digest_of(synthesis["content"]) not in said:
            yield event.task_id, f"the model never said the synthesis {synthesis['content'][:60]!r}"


def state_agrees_with_event(history: History) -> Found:
    """The bucket says what the terminal event said."""
    for event in history.events:
        if not event.terminal:
            continue
        value = history.values.get(event.task_id)
        if value is None:
            yield event.task_id, "no value in the bucket"
        elif value.get("status") != event.body.get("status"):
            yield event.task_id, f"bucket {value.get('status')}, event {event.body.get('status')}"
        elif value.get("result") != event.body:
            yield event.task_id, f"result and event differ in {_differing(value.get('result') or {}, event.body)}"
    for task_id in history.accepted:
        if not (history.values.get(task_id) or {}).get("result"):
            yield task_id, f"the bucket knows no end: {(history.values.get(task_id) or {}).get('status')}"


def no_vote_counts_twice(history: History) -> Found:
    """Within a result each agent proposes once, reviews each other proposal once per phase and round, votes once; and
    no call is counted that had no slot.
    """
    for event in _completed(history):
        results = event.body["results"]
        agents = Counter(entry["agent_id"] for entry in results)
        yield from ((event.task_id, f"{agent} ranked {n} times") for agent, n in agents.items() if n > 1)
        for entry in results:
            counts = Counter((review["reviewer_id"], review["phase"], review["round"]) for review in entry["reviews"])
            yield from (
                (event.task_id, f"{who} of {entry['agent_id']}: {n} reviews") for who, n in counts.items() if n > 1
            )
            if any(review["reviewer_id"] == entry["agent_id"] for review in entry["reviews"]):
                yield event.task_id, f"{entry['agent_id']} reviewed itself"
        chosen = event.body["comparisons"]
        votes = Counter(choice["reviewer_id"] for choice in chosen if choice["phase"] == "vote")
        yield from ((event.task_id, f"{who} voted {n} times") for who, n in votes.items() if n > 1)
        asked = Counter((choice["phase"], choice["reviewer_id"], tuple(choice["order"])) for choice in chosen)
        yield from ((event.task_id, f"{what} asked {n} times") for what, n in asked.items() if n > 1)
        slots = _most_calls(event.body, history.values.get(event.task_id, {}))
        if event.body["usage"]["calls"] > slots:
            yield event.task_id, f"{event.body['usage']['calls']} calls counted, {slots} slots"


def nothing_in_flight(history: History) -> Found:
    """At the end no consumer has anything pending or unacknowledged, no work queue a message, no call is open."""
    for backlog in history.final_backlogs:
        if backlog.pending or backlog.unacknowledged:
            yield (
                f"{backlog.consumer} of {backlog.tenant}",
                f"{backlog.pending} pending, {backlog.unacknowledged} unacknowledged",
            )
    for stream, messages in history.waiting.items():
        if messages:
            yield stream, f"{messages} messages left in the work queue"
    if history.open_calls:
        yield "model", f"{history.open_calls} calls still open"


def memory_is_bounded(history: History) -> Found:
    """No process that lived long ends with much more memory than it had after its first quarter."""
    samples: dict[str, list[int]] = defaultdict(list)
    for memory in history.memory:
        samples[memory.process].append(memory.bytes)
    for process, sizes in samples.items():
        if len(sizes) >= MEMORY_LEAST_SAMPLES:
            early, late = max(sizes[: len(sizes) // 4]), sizes[-1]
            if late > early * MEMORY_GROWTH + MEMORY_SLACK_BYTES:
                yield process, f"grew from {early / 2**20:.0f} to {late / 2**20:.0f} MiB"


def work_is_not_repeated(history: History) -> Found:
    """No call is made again, after it was answered well, that was not in flight while something was broken."""
    work = repeated(history)
    for call_id in work.without_need if work is not None else ():
        yield call_id, "was answered again, and nothing was broken while it was in flight"


def counters_are_true(history: History) -> Found:
    """Over all processes that dispatchers and collectors have been, counters add up to what the streams say."""
    if history.lives:
        looks = (*history.backlogs, *history.final_backlogs)
        again = redeliveries.facts(history.settled, looks, history.injected)
        yield from differences(history.lives, [*_counted(history), *again])


def fleet_is_whole(history: History) -> Found:
    """At the end everything runs again that belongs to the fleet."""
    for kind, wanted in WHOLE.items():
        if history.running is not None and history.running.get(kind, 0) < wanted:
            yield kind, f"{history.running.get(kind, 0)} of {wanted} run"


def nothing_is_left(history: History) -> Found:
    """When the fleet has stopped, no process of it runs on."""
    yield from (("process", what) for what in history.left)


INVARIANTS: Final[dict[str, Callable[[History], Found]]] = {
    "one terminal event": one_end,
    "one terminal event, live": one_end_seen_live,
    "every request answered": every_request_is_answered,
    "cancel tells the truth": cancelled_is_cancelled,
    "proposals are the model's": proposals_are_the_models,
    "bucket agrees with event": state_agrees_with_event,
    "no vote counts twice": no_vote_counts_twice,
    "nothing in flight": nothing_in_flight,
    "repeated work bounded": work_is_not_repeated,
    "counters are true": counters_are_true,
    "tenants apart": tenants_are_apart,
    "tokens of tenants are true": tokens_of_tenants_are_true,
    "cached results are one's own": cached_results_are_ones_own,
    "fleet whole again": fleet_is_whole,
    "memory bounded": memory_is_bounded,
    "no process left": nothing_is_left,
}


OF_ONES_OWN: Final = (
    "proposals are the model's",
    "nothing in flight",
    "repeated work bounded",
    "counters are true",
    "tenants apart",
    "tokens of tenants are true",
    "fleet whole again",
    "memory bounded",
    "no process left",
)
"""Not to be seen from outside of somebody else's cluster."""


def checked(history: History) -> tuple[str, ...]:
    """The invariants that this history can tell about."""
    return tuple(name for name in INVARIANTS if history.running is not None or name not in OF_ONES_OWN)


def judge(history: History) -> tuple[Violation, ...]:
    """Everything that contradicts an invariant."""
    return tuple(
        Violation(invariant=name, where=where, detail=detail)
        for name, check in INVARIANTS.items()
        for where, detail in check(history)
    )


def _counted(history: History) -> list[Fact]:
    """What must have been counted, between when it was asked for and when its event was stored."""
    asked: dict[str, float] = {}
    for sent in history.sent:
        asked[sent.key] = min(sent.at, asked.get(sent.key, sent.at))
    facts = []
    for event in history.events:
        since = asked.get(event.task_id, event.at)
        if event.subject == subjects.ACCEPTED:
            facts.append(Fact(series=series(ACCEPTED), amount=1, since=since, until=event.at))
        elif event.subject == subjects.REJECTED:
            facts.append(
                Fact(series=series(REJECTIONS, code=event.body["code"]), amount=1, since=event.at, until=event.at)
            )
        elif event.terminal:
            usage = event.body["usage"]
            amounts = {series(ENDED, status=event.body["status"]): 1, series(CALLS): usage["calls"]}
            amounts |= {series(TOKENS, kind=kind): usage[name] or 0 for kind, name in TOKEN_KINDS.items()}
            facts += [Fact(series=name, amount=n, since=since, until=event.at) for name, n in amounts.items()]
    return facts


def _completed(history: History) -> Iterator[Event]:
    return (event for event in history.events if event.subject == subjects.COMPLETED)


def _most_calls(result: dict[str, Any], value: dict[str, Any]) -> int:
    """Slots that it can have had: propose, critique and revise per round, score; and what some ask for."""
    task = value.get("task") or {}
    agents, rounds = result["total_agents"], task.get("rounds", result["rounds_run"])
    extra = 2 if task.get("selection") == "architect" else MOST_COMPARISONS
    return int(agents * (2 + 2 * rounds) + extra + bool(task.get("synthesis")))


def _differing(one: dict[str, Any], other: dict[str, Any]) -> str:
    names = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    return json.dumps(sorted(names))
