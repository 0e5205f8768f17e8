"""Checks what results from the cache must be, whatever was broken. Pure: it yields what contradicts it."""

from collections.abc import Iterator, Mapping
from typing import Any

from fleet import subjects
from fleet.chaos.history import Event, History
from fleet.tenants.names import key_of

ASKED = ("task_description", "role", "num_agents", "rounds", "constraints", "options")
NOT_ASKED = {"constraints": "timeout_seconds", "options": "cache"}
"""What equal questions may differ in."""


def cached_results_are_ones_own(history: History) -> Iterator[tuple[str, str]]:
    """A result from the cache is that of an equal question of the same tenant, which was whole, had ended before, and
    was none from the cache itself. It repeats its texts, and has used nothing. Only who asks for the cache gets one.
    """
    ends = {event.task_id: event for event in history.events if event.terminal}
    for event in ends.values():
        if event.subject == subjects.COMPLETED and (origin := event.body.get("cached_from")) is not None:
            yield from ((event.task_id, what) for what in _wrong(event, ends.get(key_of(event.tenant, origin))))


def _wrong(event: Event, origin: Event | None) -> Iterator[str]:
    named, used = event.body["cached_from"], event.body["usage"]
    if event.body["task"]["options"]["cache"] != "use":
        yield "has not asked for the cache"
    if used["calls"] or used["prompt_tokens"] or used["completion_tokens"]:
        yield f"is from the cache, and has used {used['calls']} calls"
    if origin is None or origin.subject != subjects.COMPLETED:
        yield f"is from {named}, of which its tenant has no result"
        return
    if origin.body["degraded"] or origin.body.get("cached_from") is not None:
        yield f"is from {named}, which is degraded or from the cache itself"
    if origin.sequence > event.sequence:
        yield f"is from {named}, which ended later"
    if _question(event.body) != _question(origin.body):
        yield f"is from {named}, which was asked something else"
    if _texts(event.body) != _texts(origin.body):
        yield f"is from {named}, and has other texts"


def _question(body: Mapping[str, Any]) -> dict[str, Any]:
    asked = {name: body["task"][name] for name in ASKED}
    for name, left_out in NOT_ASKED.items():
        asked[name] = {key: value for key, value in asked[name].items() if key != left_out}
    return asked


def _texts(body: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [(entry["rank"], entry["agent_id"], entry["proposal"]["content"]) for entry in body["results"]]
