import pytest

from fleet.messages import AgentRequested
from workers.outlet import Standing

REQUEST = AgentRequested(
    task_id="t",
    agent_id="agent-dev-001",
    role="DEV",
    phase="revise",
    round=1,
    messages=(),
    seed=1,
    num_agents=3,
    deadline_at="2026-01-01T00:00:00.000Z",
)


@pytest.mark.parametrize(
    ("standing", "wanted"),
    [
        (Standing(status="IN_PROGRESS", phase="revise", round=1, calls={"agent-dev-001": "open"}), True),
        (Standing(status="IN_PROGRESS", phase="revise", round=1, calls={"agent-dev-001": "completed"}), False),
        (Standing(status="IN_PROGRESS", phase="critique", round=2), False),
        (Standing(status="IN_PROGRESS", phase="score", round=1), False),
        (Standing(status="IN_PROGRESS", phase="critique", round=1), True),
        (Standing(status="CANCELLED", phase="revise", round=1, calls={"agent-dev-001": "open"}), False),
    ],
)
def test_a_call_is_wanted_while_its_slot_is_open_or_the_state_read_is_older(standing: Standing, wanted: bool) -> None:
    """A replica that lags must not make a worker drop a call."""
    assert standing.wants(REQUEST) is wanted
