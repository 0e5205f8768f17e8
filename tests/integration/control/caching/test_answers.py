"""`options.cache`: which questions are answered with an old result, and what such an answer is."""

from typing import Any

import pytest
from msgspec import structs

from fleet import subjects
from fleet.config import load
from fleet.messages import AgentRequested, AgentResponse
from tests.support import agents
from tests.support.fleets.control_plane import Fleet, running
from tests.support.variants import some_of

pytestmark = pytest.mark.usefixtures("nats_binary")


class Council:
    """Answers calls, and counts them by task."""

    def __init__(self) -> None:
        self.calls: list[AgentRequested] = []

    def __call__(self, call: AgentRequested) -> AgentResponse | None:
        self.calls.append(call)
        return agents.answer(call)

    @property
    def tasks(self) -> list[str]:
        """Those that models were called for, in order."""
        return list(dict.fromkeys(call.task_id for call in self.calls))


def question(task_id: str, cache: str = "use", **more: Any) -> dict[str, Any]:
    options = {"cache": cache, **more.pop("options", {})}
    return {"task_id": task_id, "task_description": "Design it", "num_agents": 2, "options": options, **more}


async def ask(fleet: Fleet, task_id: str, cache: str = "use", **more: Any) -> dict[str, Any]:
    code, reply = await fleet.ask(subjects.ASK, question(task_id, cache, **more))
    assert code is None, reply
    return reply


NOT_COUNTED = ("task_id", "cached_from", "accepted_at", "completed_at", "duration_ms", "correlation", "task")
SPENT = ("usage", "usage_by_model", "cost")


async def test_the_same_question_is_answered_at_once_with_its_own_names(nats_url: str) -> None:
    """The result is the other one's, the names and times are its own, and nothing was used."""
    council = Council()
    async with running(nats_url, council) as fleet:
        first = await ask(fleet, "first", correlation={"story": "1"})
        second = await ask(fleet, "second", correlation={"story": "2"}, constraints={"timeout_seconds": 77})
        assert council.tasks == ["first"]
        assert (first["cached_from"], second["cached_from"]) == (None, "first")
        assert {k: v for k, v in second.items() if k not in (*NOT_COUNTED, *SPENT)} == {
            k: v for k, v in first.items() if k not in (*NOT_COUNTED, *SPENT)
        }
        assert second["task_id"] == second["task"]["task_id"] == "second"
        assert second["correlation"] == second["task"]["correlation"] == {"story": "2"}
        assert second["task"]["constraints"]["timeout_seconds"] == 77
        assert (set(second["usage"].values()), second["usage_by_model"], second["cost"]) == ({0}, {}, 0.0)
        accepted = await fleet.inbox.next(subjects.ACCEPTED, task_id="second")
        assert second["accepted_at"] == accepted["accepted_at"] > first["completed_at"]
        assert fleet.inbox.of("second") == [subjects.ACCEPTED, subjects.COMPLETED]
        code, looked_up = await fleet.ask(subjects.RESULT, {"task_id": "second"})
        assert (code, looked_up["result"]) == (None, second)


async def test_off_neither_reads_nor_writes(nats_url: str) -> None:
    """Which is the default."""
    council = Council()
    async with running(nats_url, council) as fleet:
        await ask(fleet, "off", "off")
        await ask(fleet, "use")
        await ask(fleet, "off-again", "off")
        plain = question("plain")
        del plain["options"]
        _, reply = await fleet.ask(subjects.ASK, plain)
        assert council.tasks == ["off", "use", "off-again", "plain"]
        assert reply["cached_from"] is None
        assert reply["task"]["options"]["cache"] == "off"
        js = fleet.nc.jetstream()
        assert (await js.stream_info(subjects.CACHE_STREAM)).state.messages == 1


async def test_refresh_runs_anew_and_replaces(nats_url: str) -> None:
    council = Council()
    async with running(nats_url, council) as fleet:
        await ask(fleet, "first")
        assert (await ask(fleet, "anew", "refresh"))["cached_from"] is None
        assert (await ask(fleet, "second"))["cached_from"] == "anew"
        assert council.tasks == ["first", "anew"]


async def test_a_chain_names_the_origin(nats_url: str) -> None:
    async with running(nats_url, Council()) as fleet:
        for task_id in ("first", "second", "third"):
            reply = await ask(fleet, task_id)
        assert reply["cached_from"] == "first"


@some_of(
    4,
    "other",
    [
        {"task_description": "Design something else"},
        {"role": "QA"},
        {"num_agents": 3},
        {"rounds": 0},
        {"constraints": {"requirements": ["short"]}},
        {"constraints": {"metadata": {"language": "Go"}}},
        {"options": {"seed": 1}},
        {"options": {"models": ["other"]}},
        {"options": {"second_reading": True}},
    ],
)
async def test_another_question_runs(nats_url: str, other: dict[str, Any]) -> None:
    council = Council()
    async with running(nats_url, council) as fleet:
        await ask(fleet, "first")
        assert (await ask(fleet, "other", **other))["cached_from"] is None
        assert council.tasks == ["first", "other"]


async def test_after_a_role_was_changed_its_questions_run_anew(nats_url: str) -> None:
    """The persona of another role changes nothing."""
    council = Council()
    roles = load({"NATS_URL": nats_url}).roles
    changed = {name: {**roles, name: structs.replace(roles[name], persona="You are new.")} for name in ("QA", "DEV")}
    async with running(nats_url, council) as fleet:
        await ask(fleet, "first")
    async with running(nats_url, council, roles=changed["QA"]) as fleet:
        assert (await ask(fleet, "qa-changed"))["cached_from"] == "first"
    async with running(nats_url, council, roles=changed["DEV"]) as fleet:
        assert (await ask(fleet, "dev-changed"))["cached_from"] is None
