"""Judges beside a council, on a real nats-server and simulated models: asked, counted once, no trouble when away."""

import pytest

from fleet import subjects
from fleet.messages import AgentRequested, AgentResponse
from fleet.model_servers import EndpointConfig, JudgeConfig
from tests.support import agents
from tests.support.fleets.control_plane import running
from tests.support.fleets.whole_fleet import whole
from tests.support.recompute import deviations
from tests.support.waiting import until
from workers.simulator.server import Simulator, SimulatorConfig

pytestmark = pytest.mark.usefixtures("nats_binary")


@pytest.mark.parametrize("kind", ["classify", "generative_scoring"])
async def test_a_whole_fleet_hears_a_judge(nats_url: str, kind: str) -> None:
    """Its model answers beside the council's, its calls are told by model, and every number can be worked out."""
    judges = {"reward": JudgeConfig(kind=kind, endpoint="rm-1", model="rm")}  # type: ignore[arg-type]
    async with Simulator(SimulatorConfig(model="rm")) as rm:
        servers = {"rm-1": EndpointConfig(url=rm.url)}
        async with whole(nats_url, judges=judges, endpoints=servers, vllm_model="simulated") as fleet:
            task_id = await fleet.request(num_agents=3, rounds=0)
            done = await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)
        assert rm.requests == 0
    rewards = [review["reward"] for entry in done["results"] for review in entry["reviews"] if review["reward"]]
    assert [(reward["kind"], reward["model"]) for reward in rewards] == [(kind, "rm")] * 3
    assert len({reward["value"] for reward in rewards}) == 3
    assert (done["degraded"], done["failed_agents"]) == (False, [])
    assert {name: used["calls"] for name, used in done["usage_by_model"].items()} == {"simulated": 6, "rm": 3}
    assert done["usage_by_model"]["rm"]["prompt_tokens"] > 0
    assert done["usage_by_model"]["rm"]["completion_tokens"] == (0 if kind == "classify" else 3)
    assert done["usage"]["calls"] == 9
    assert deviations(done) == []


async def test_a_judge_that_is_away_holds_up_no_council_for_longer_than_its_time(nats_url: str) -> None:
    """The result is there, long before the deadline, degraded, with the calls named."""
    judges = {"reward": JudgeConfig(kind="classify", endpoint="rm-1", model="rm", timeout_s=0.5)}
    servers = {"rm-1": EndpointConfig(url="http://127.0.0.1:9")}
    async with whole(nats_url, judges=judges, endpoints=servers, vllm_model="simulated") as fleet:
        task_id = await fleet.request(num_agents=2, rounds=0)
        done = await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)
    assert [call["agent_id"] for call in done["failed_agents"]] == ["judge-reward"] * 2
    # Which of the two: whether a further attempt would have begun in time.
    assert {call["error_type"] for call in done["failed_agents"]} <= {"DeadlineExceeded", "ConnectionRefused"}
    assert done["degraded"]
    assert all(entry["score"] is not None for entry in done["results"])
    assert done["stop_reason"] is None
    assert deviations(done) == []


async def test_a_judges_answer_that_is_stored_twice_counts_once(nats_url: str) -> None:
    """Two workers may hold one call: whoever answers first has answered."""
    seen: list[AgentRequested] = []
    held: list[AgentRequested] = []

    def respond(call: AgentRequested) -> AgentResponse | None:
        if call.judge is not None:
            seen.append(call)
        if (call.phase, call.agent_id) == ("score", "agent-dev-001"):
            held.append(call)
            return None
        return agents.answer(call)

    async with running(nats_url, respond, judges={"reward": JudgeConfig(kind="classify")}) as fleet:
        task_id = await fleet.request(num_agents=2, rounds=0)
        await until(lambda: len(seen) == 2 and len(held) == 1)
        js = fleet.nc.jetstream()
        for call in seen:
            await agents.publish(js, agents.answer(call, judge=lambda call, author: 9.0).change(attempt=1001))
        await agents.publish(js, agents.answer(held[0]))
        done = await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)
    assert done["usage"]["calls"] == 6
    assert done["usage_by_model"]["rm"]["calls"] == 2
    rewards = [review for entry in done["results"] for review in entry["reviews"] if review["reward"]]
    assert len(rewards) == 2
    assert deviations(done) == []
