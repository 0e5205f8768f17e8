"""Lists deliberations: from the stream of their events, and for those that run from their states."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec
import nats.js.errors
from msgspec import Struct

from fleet import subjects
from fleet.client.connection import Caller
from fleet.jetstream.history import events
from fleet.jetstream.payloads import MissingText
from fleet.messages import UNDECODABLE, Status
from fleet.tenants.names import DEFAULT_TENANT, key_of_event, of_all, without_tenant
from fleet.times import from_rfc3339, rfc3339

AT_ONCE = 16
"""Bodies that are read at the same time."""
NEWEST = 10_000
"""Events that are looked through for one task: some seconds, where all might take minutes."""
STATUSES: dict[str, tuple[Status, ...]] = {
    subjects.ACCEPTED: ("IN_PROGRESS",),
    subjects.COMPLETED: ("COMPLETED",),
    subjects.FAILED: ("FAILED", "TIMEOUT"),
    subjects.CANCELLED: ("CANCELLED",),
}


class Summary(Struct, frozen=True, kw_only=True):
    """A deliberation as a list shows it. Of one that has ended: how. Of one that runs: in which phase it is.

    `task_description`, `winner_id`, `tokens` and `cost` are null where they are not known, or not yet.
    """

    task_id: str
    status: Status
    tenant: str = DEFAULT_TENANT
    task_description: str | None = None
    role: str | None = None
    agents: int | None = None
    accepted_at: str | None = None
    deadline_at: str | None = None
    completed_at: str | None = None
    duration_ms: int | None = None
    phase: str | None = None
    round: int | None = None
    done: int | None = None
    expected: int | None = None
    degraded: bool | None = None
    winner_id: str | None = None
    score: float | None = None
    tokens: int | None = None
    cost: float | None = None
    error: str | None = None
    cached_from: str | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the latest news of a task stands: `accepted` and `ended` are places in the stream, 0: none."""

    accepted: int = 0
    ended: int = 0
    subject: str = subjects.ACCEPTED


async def summaries(
    caller: Caller, statuses: Iterable[Status] = (), *, tenant: str | None = None, limit: int | None = None
) -> list[Summary]:
    """The newest `limit` deliberations, oldest first, of some statuses or one tenant alone. Raises what nats-py does.

    Of the whole stream only headers are read; bodies are those of what is listed.
    """
    wanted = set(statuses)
    subjects_of = {subject for subject, those in STATUSES.items() if not wanted or wanted & set(those)}
    places = {key: place for key, place in (await _places(caller)).items() if place.subject in subjects_of}
    newest = sorted(places.items(), key=lambda item: max(item[1].accepted, item[1].ended), reverse=True)
    listed: list[Summary] = []
    async with aclosing(_read(caller, newest)) as reading:
        async for summary in reading:
            if (not wanted or summary.status in wanted) and tenant in (None, summary.tenant):
                listed.append(summary)
                if limit is not None and len(listed) >= limit:
                    break
    return listed[::-1]


async def last_end(caller: Caller, key: str, newest: int | None = NEWEST) -> dict[str, Any] | None:
    """The newest terminal event of a task, whether or not its state is still there. None where the stream has none, or
    a later acceptance. `newest`: how many events are looked through; None: all.
    """
    try:
        start = None
        if newest is not None:
            start = max(1, (await caller.js.stream_info(subjects.DELIBERATIONS)).state.last_seq - newest + 1)
        place = (await _places(caller, start)).get(key, _Place())
        if not place.ended:
            return None
        event = await _event(caller, place.ended)
        if place.accepted > place.ended:  # of this deliberation, announced late, or of the next one
            accepted = await _event(caller, place.accepted)
            if accepted["accepted_at"] > event["completed_at"]:
                return None
    except (nats.js.errors.NotFoundError, MissingText, KeyError, TypeError, *UNDECODABLE):
        return None
    return event


async def _places(caller: Caller, start: int | None = None) -> dict[str, _Place]:
    places: dict[str, _Place] = {}
    told = events(caller.js, of_all(*STATUSES), None, headers_only=True, may_delete=False, start=start)
    async with aclosing(told) as messages:
        async for msg in messages:
            key, sequence = key_of_event(msg.subject, msg.headers), msg.metadata.sequence.stream
            subject, place = without_tenant(msg.subject), places.get(key, _Place())
            if subject == subjects.ACCEPTED:  # it may come after the end
                places[key] = _Place(sequence, place.ended, place.subject)
            else:
                places[key] = _Place(place.accepted, sequence, subject)
    return places


async def _read(caller: Caller, places: list[tuple[str, _Place]]) -> AsyncGenerator[Summary, None]:
    """In this order, some at a time."""
    for start in range(0, len(places), AT_ONCE):
        batch = places[start : start + AT_ONCE]
        for summary in await asyncio.gather(*(_summary(caller, key, place) for key, place in batch)):
            if summary is not None:
                yield summary


async def _summary(caller: Caller, key: str, place: _Place) -> Summary | None:
    """None for one that has gone meanwhile, or that is no event of the fleet."""
    try:
        if place.ended:
            return _ended(await _event(caller, place.ended))
        return _running(await _event(caller, place.accepted), await _state(caller, key))
    except (nats.js.errors.NotFoundError, MissingText, KeyError, TypeError, *UNDECODABLE):
        return None


async def _event(caller: Caller, sequence: int) -> dict[str, Any]:
    msg = await caller.js.get_msg(subjects.DELIBERATIONS, sequence)
    body: dict[str, Any] = msgspec.json.decode(await caller.texts.inline(msg.data or b""))
    return body


async def _state(caller: Caller, key: str) -> dict[str, Any]:
    """Empty where there is none. A long one is not fetched: what it leaves in the bucket says the phase."""
    try:
        msg = await caller.js.get_last_msg(subjects.STATES, f"$KV.{subjects.BUCKET}.{key}")
    except nats.js.errors.NotFoundError:
        return {}
    state: dict[str, Any] = msgspec.json.decode(msg.data or b"{}")
    return state


def _ended(event: dict[str, Any]) -> Summary:
    task, results = event.get("task") or {}, event.get("results") or [{}]
    usage = event.get("usage") or {}
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens", "estimated_tokens")]
    return Summary(
        task_id=event["task_id"],
        status=event["status"],
        tenant=event.get("tenant", DEFAULT_TENANT),
        task_description=task.get("task_description") or None,
        role=task.get("role"),
        agents=task.get("num_agents", event.get("total_agents")),
        accepted_at=rfc3339(from_rfc3339(event["completed_at"]) - event["duration_ms"]),
        completed_at=event["completed_at"],
        duration_ms=event["duration_ms"],
        degraded=event.get("degraded"),
        winner_id=event.get("winner_id"),
        score=results[0].get("score"),
        tokens=sum(count or 0 for count in counts),
        cost=event.get("cost"),
        error=event.get("error") or event.get("reason"),
        cached_from=event.get("cached_from"),
    )


def _running(accepted: dict[str, Any], state: dict[str, Any]) -> Summary:
    calls, usage = state.get("calls") or {}, state.get("usage") or {}
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens", "estimated_tokens")]
    return Summary(
        task_id=accepted["task_id"],
        status="IN_PROGRESS",
        tenant=accepted.get("tenant", DEFAULT_TENANT),
        task_description=(state.get("task") or {}).get("task_description"),
        role=accepted["role"],
        agents=len(accepted["agents"]),
        accepted_at=accepted["accepted_at"],
        deadline_at=accepted["deadline_at"],
        phase=state.get("phase"),
        round=state.get("round"),
        done=sum(call != "open" for call in calls.values()) if state else None,
        expected=len(calls) if state else None,
        tokens=sum(count or 0 for count in counts) if usage else None,
    )
