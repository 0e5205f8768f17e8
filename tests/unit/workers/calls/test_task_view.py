from itertools import pairwise
from typing import get_args

import pytest
from msgspec import structs

from fleet.messages import AgentRequested, Phase
from workers.calls.task_view import ShadowsView, TaskView

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
    ("task", "needed"),
    [
        (TaskView(status="IN_PROGRESS", phase="revise", round=1, calls={"agent-dev-001": "open"}), True),
        (TaskView(status="IN_PROGRESS", phase="revise", round=1, calls={"agent-dev-001": "completed"}), False),
        (TaskView(status="IN_PROGRESS", phase="revise", round=1, calls={"agent-dev-002": "open"}), True),
        (TaskView(status="IN_PROGRESS", phase="critique", round=2), False),
        (TaskView(status="IN_PROGRESS", phase="score", round=1), False),
        (TaskView(status="IN_PROGRESS", phase="critique", round=1), True),
        (TaskView(status="CANCELLED", phase="revise", round=1, calls={"agent-dev-001": "open"}), False),
    ],
)
def test_a_call_is_needed_while_its_slot_is_open_or_the_state_read_is_older(task: TaskView, needed: bool) -> None:
    """A replica that lags must not make a worker drop a call."""
    assert task.needs(REQUEST) is needed


def test_a_further_question_of_an_agent_has_a_slot_of_its_own() -> None:
    """Within one phase, `question` tells them apart."""
    calls = {"agent-dev-001": "completed", "agent-dev-001~2": "open"}
    task = TaskView(status="IN_PROGRESS", phase="revise", round=1, calls=calls)
    assert [task.needs(structs.replace(REQUEST, question=number)) for number in (1, 2)] == [False, True]


def test_phases_follow_each_other_in_the_order_of_their_type() -> None:
    """A call of an earlier one is over, one of a later one is needed."""
    phases: tuple[Phase, ...] = get_args(Phase)
    for here, there in pairwise(phases):
        early, late = (structs.replace(REQUEST, phase=phase) for phase in (here, there))
        assert not TaskView(status="IN_PROGRESS", phase=there, round=1).needs(early)
        assert TaskView(status="IN_PROGRESS", phase=here, round=1).needs(late)


def test_calls_of_shadows_have_slots_of_their_own() -> None:
    """Needed in whatever phase the council is, until they are answered; a replica may not know of them yet."""
    call = structs.replace(REQUEST, phase="score", round=0, question=201, shadow=True)
    task = TaskView(status="IN_PROGRESS", phase="revise", round=1)
    assert task.needs(call)
    for status, needed in (("open", True), ("completed", False)):
        shadows = ShadowsView(calls={"agent-dev-101": "open", call.slot: status})
        assert structs.replace(task, shadows=shadows).needs(call) is needed
    assert not structs.replace(task, status="COMPLETED").needs(call)


def test_ids_of_a_call_name_its_slot() -> None:
    """The first question of an agent by its id alone."""
    assert structs.replace(REQUEST, attempt=4).msg_id == "t.1.revise.agent-dev-001.4"
    assert structs.replace(REQUEST, question=2, attempt=4).msg_id == "t.1.revise.agent-dev-001~2.4"
    assert structs.replace(REQUEST, run="a").msg_id == "t.1.revise.agent-dev-001.1.a"


def test_a_call_is_not_needed_once_its_task_id_was_used_again() -> None:
    """Where one of the two does not say which request it is of, it may be."""
    task = TaskView(status="IN_PROGRESS", phase="revise", round=1, run="b")
    assert [task.needs(structs.replace(REQUEST, run=run)) for run in ("a", "b", "")] == [False, True, True]
