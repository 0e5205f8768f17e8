"""What answers nobody else: what failed, was stopped, is degraded, cut, or was itself an answer from the cache."""

from typing import Any

import pytest

from fleet import subjects
from fleet.messages import AgentRequested, AgentResponse
from tests.integration.control.caching.test_answers import Council, ask, question
from tests.support import agents
from tests.support.fleets.control_plane import running
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("nats_binary")


class FirstTask(Council):
    """Answers the first task in a way of its own."""

    def __init__(self, how: Any) -> None:
        super().__init__()
        self._how = how

    def __call__(self, call: AgentRequested) -> AgentResponse | None:
        self.calls.append(call)
        answer: AgentResponse | None = self._how(call) if call.task_id == self.tasks[0] else agents.answer(call)
        return answer


def one_fails(call: AgentRequested) -> AgentResponse:
    return agents.failure(call) if call.agent_id.endswith("001") else agents.answer(call)


def cut(call: AgentRequested) -> AgentResponse:
    answer = agents.answer(call)
    return answer.change(proposal=answer.proposal and answer.proposal.change(truncated=True))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (agents.failure, {"status": "FAILED"}),
        (one_fails, {"status": "COMPLETED", "degraded": True}),
        (cut, {"status": "COMPLETED", "degraded": False}),
    ],
    ids=["failed", "degraded", "truncated"],
)
async def test_it_runs_again(nats_url: str, how: Any, told: dict[str, Any]) -> None:
    council = FirstTask(how)
    more = {"options": {"accept_truncated": True}}
    async with running(nats_url, council) as fleet:
        assert told.items() <= (await ask(fleet, "first", **more)).items()
        assert (await ask(fleet, "second", **more))["cached_from"] is None
        assert (await ask(fleet, "third", **more))["cached_from"] == "second"


async def test_neither_a_cancelled_nor_a_late_one_is_reused(nats_url: str) -> None:
    council = FirstTask(lambda call: None)
    async with running(nats_url, council) as fleet:
        late = await ask(fleet, "late", constraints={"timeout_seconds": 1})
        assert late["status"] == "TIMEOUT"
        assert (await ask(fleet, "second"))["cached_from"] is None
    council = FirstTask(lambda call: None)
    async with running(nats_url, council) as fleet:
        await fleet.request(**question("stopped", task_description="Design it, too"))
        await until(lambda: council.calls)
        await fleet.ask(subjects.CANCEL, {"task_id": "stopped"})
        assert (await ask(fleet, "third", task_description="Design it, too"))["cached_from"] is None


async def test_a_copy_answers_nobody_once_its_origin_is_gone(nats_url: str) -> None:
    """Chains name the origin, or there is none."""
    council = Council()
    async with running(nats_url, council) as fleet:
        await ask(fleet, "first")
        assert (await ask(fleet, "copy"))["cached_from"] == "first"
        await (await fleet.nc.jetstream().key_value(subjects.BUCKET)).delete("first")
        assert (await ask(fleet, "third"))["cached_from"] is None
