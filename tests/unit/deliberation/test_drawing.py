"""Models of a council are drawn by the seed, agent by agent, in the shares of their roles."""

from collections import Counter
from typing import Any

import pytest

from fleet.deliberation.drawing import RoleModels, draw
from fleet.deliberation.events import Requested
from fleet.deliberation.machine import decide
from fleet.messages import AgentRequested
from tests.support.council import NOW, begin, run_to_end

SHARES = {"DEV": RoleModels(shares={"fast": 9.0, "candidate": 1.0})}


def asked(models: dict[str, RoleModels], /, **task: Any) -> list[AgentRequested]:
    """All calls of a deliberation whose roles have these models."""
    wanted = begin(**task).state.task
    return run_to_end(decide(None, Requested("t-1", wanted, 7, NOW, models=models)))[1]


def used(calls: list[AgentRequested]) -> dict[tuple[str, str], str | None]:
    return {(call.agent_id, call.phase): call.model for call in calls}


def test_shares_hold_over_many_deliberations() -> None:
    """Nine to one, as far as chance lets that be seen."""
    agents = {f"agent-dev-{number:03d}": "DEV" for number in range(1, 5)}
    drawn = Counter(each.writes for seed in range(1000) for each in draw(seed, agents, SHARES).values())
    assert 300 <= drawn["candidate"] <= 500
    assert drawn.total() == 4000


def test_agents_draw_for_themselves() -> None:
    """One council may hold both, and a further agent changes nobody's model."""
    few = {f"agent-dev-{number:03d}": "DEV" for number in range(1, 4)}
    more = {**few, "agent-dev-004": "DEV"}
    even = {"DEV": RoleModels(shares={"a": 1.0, "b": 1.0})}
    councils = [draw(seed, more, even) for seed in range(50)]
    assert any(len({each.writes for each in council.values()}) == 2 for council in councils)
    for seed, council in enumerate(councils):
        assert draw(seed, few, even) == {agent: council[agent] for agent in few}


def test_an_agent_keeps_its_model_through_all_phases() -> None:
    """The same request again draws the same; another seed may not."""
    even = {"DEV": RoleModels(shares={"a": 1.0, "b": 1.0})}
    first = used(asked(even, seed=7, num_agents=3))
    assert first == used(asked(even, seed=7, num_agents=3))
    of_agent = {agent: {model for (other, _), model in first.items() if other == agent} for agent, _ in first}
    assert all(len(models) == 1 and models <= {"a", "b"} for models in of_agent.values())
    assert any(used(asked(even, seed=seed, num_agents=3)) != first for seed in range(8, 20))


def test_a_judge_model_judges_whatever_was_drawn() -> None:
    """Proposals and revisions are by the drawn one."""
    calls = used(asked({"DEV": RoleModels(shares={"a": 1.0}, judge="judge")}, num_agents=2))
    by_phase = {phase: model for (_, phase), model in calls.items()}
    assert by_phase == {"propose": "a", "critique": "judge", "revise": "a", "score": "judge"}


def test_only_roles_with_several_models_draw() -> None:
    """Others have their role's, which the worker knows."""
    calls = used(asked({"QA": RoleModels(shares={"a": 1.0})}, num_agents=2, roles=("DEV", "QA")))
    assert (calls["agent-dev-001", "propose"], calls["agent-qa-001", "propose"]) == (None, "a")


@pytest.mark.parametrize("models", [("x",), ("x", "y")])
def test_models_of_the_request_count_before(models: tuple[str, ...]) -> None:
    """Who asks for a mixture gets that one."""
    calls = used(asked({"DEV": RoleModels(shares={"a": 1.0})}, num_agents=2, models=models))
    assert set(calls.values()) == {*models}
