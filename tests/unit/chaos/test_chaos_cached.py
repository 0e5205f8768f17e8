"""What `fleet chaos` demands of results from the cache, and that each of it can fail."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from fleet.chaos import load
from fleet.chaos.history import Event, History
from fleet.chaos.tenants.cached import cached_results_are_ones_own
from fleet.tenants.names import key_of

OPTIONS: dict[str, Any] = {"cache": "use", "seed": 7}
TASK: dict[str, Any] = {
    "task_description": "which?",
    "role": "DEV",
    "num_agents": 1,
    "rounds": 0,
    "constraints": {"timeout_seconds": 60.0, "rubric": None},
    "options": OPTIONS,
}


def ended(task_id: str, sequence: int, tenant: str = "team-a", **body: Any) -> Event:
    full = {
        "status": "COMPLETED",
        "task_id": task_id,
        "degraded": False,
        "task": TASK,
        "usage": {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0},
        "results": [{"rank": 1, "agent_id": "a", "proposal": {"content": "this"}}],
        **body,
    }
    key = key_of(tenant, task_id)
    subject = f"deliberation.{full['status'].lower()}"
    return Event(sequence=sequence, at=1.0, subject=subject, task_id=key, tenant=tenant, body=full)


ORIGIN = ended("t-1", 3, usage={"calls": 1, "prompt_tokens": 5, "completion_tokens": 5})
AGAIN = ended("t-2", 7, cached_from="t-1")


def found(*events: Event) -> list[str]:
    return [what for _, what in cached_results_are_ones_own(History(events=events))]


def but(event: Event, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Event:
    return replace(event, body={**event.body, **change(event.body)})


def test_the_result_of_an_equal_question_is_ones_own() -> None:
    """However long the two may take, and though one of them has renewed it."""
    asked = {
        **TASK,
        "constraints": {"timeout_seconds": 1.0, "rubric": None},
        "options": {**OPTIONS, "cache": "refresh"},
    }
    assert found(ORIGIN, AGAIN) == found(but(ORIGIN, lambda _: {"task": asked}), AGAIN) == []
    assert found(ORIGIN, ended("t-3", 8)) == []


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ((ended("t-1", 3, tenant="team-b"), AGAIN), "has no result"),
        ((AGAIN,), "has no result"),
        ((ended("t-1", 3, status="FAILED"), AGAIN), "has no result"),
        ((but(ORIGIN, lambda _: {"degraded": True}), AGAIN), "degraded"),
        ((but(ORIGIN, lambda _: {"cached_from": "t-2"}), AGAIN), "from the cache itself"),
        ((replace(ORIGIN, sequence=9), AGAIN), "ended later"),
        ((but(ORIGIN, lambda body: {"task": {**body["task"], "rounds": 1}}), AGAIN), "something else"),
        ((but(ORIGIN, lambda body: {"results": body["results"] * 2}), AGAIN), "other texts"),
        ((ORIGIN, but(AGAIN, lambda body: {"usage": {**body["usage"], "calls": 1}})), "has used 1 calls"),
        ((ORIGIN, but(AGAIN, lambda body: {"task": {**TASK, "options": {"cache": "off", "seed": 7}}})), "not asked"),
    ],
)
def test_what_is_not_ones_own_is_seen(events: tuple[Event, ...], says: str) -> None:
    """Another tenant's, a worse one, a later one, an answer to another question."""
    assert any(says in what for what in found(*events))


def test_a_part_of_the_load_asks_the_same_questions() -> None:
    """All tenants do. What else is asked for does not change by it."""
    asked = load.requests(7, 400, 100.0, timeout_s=60.0, large=False, tenants=("team-a", "team-b"))
    again = [each for each in asked if each.kind == "good" and b'"cache"' in each.body]
    assert 0.05 < len(again) / 400 < 0.2
    assert {each.tenant for each in again} == {"team-a", "team-b"}
    questions = {str(load._question(Random(seed))["task_description"]) for seed in range(50)}
    assert 1 < len(questions) < 10
