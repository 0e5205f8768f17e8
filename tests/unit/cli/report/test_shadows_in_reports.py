"""What is shown of a result with shadows: the verdict is that of the council, and what shadows cost stands apart."""

from fleet.cli.report import markdown
from fleet.cli.report.words import agreement
from fleet.cli.report.writing import document
from fleet.cli.verdict import first
from fleet.deliberation.events import Requested
from fleet.deliberation.machine import decide
from fleet.messages import DeliberationCompleted
from fleet.requests.task import Task
from tests.support.council import NOW, run_to_end


def completed(num_agents: int) -> DeliberationCompleted:
    task = Task(task_description="Build it", num_agents=num_agents, rounds=0)
    state, _ = run_to_end(decide(None, Requested("t-1", task, 7, NOW, shadows={"DEV": ("candidate",)})))
    assert isinstance(state.result, DeliberationCompleted)
    return state.result


def test_one_agent_and_a_shadow_are_no_comparison() -> None:
    """There is one proposal that could win."""
    (only,) = completed(1).ranked
    event = completed(1).change(results=(only, only.change(agent_id="agent-dev-101", shadow=True, rank=2)))
    assert first(event) == "agent-dev-001, the only proposal"
    assert agreement(event) == "There was nothing to compare it with."


def test_a_report_names_shadows_and_their_cost_apart() -> None:
    """In the order and in the table of costs."""
    text = markdown.render(document(completed(2)))
    assert "| shadow | agent-dev-101 |" in text
    assert "shadows, apart" in text
