"""From results to comparisons: the same reviewers, the same role, first texts with first texts."""

from fleet.cli.models.command import fields
from fleet.cli.models.reading import council_of, reports
from fleet.deliberation.drawing import RoleModels
from fleet.deliberation.events import Requested
from fleet.deliberation.machine import decide
from fleet.messages import AgentRequested, AgentResponse, DeliberationCompleted
from fleet.requests.task import Task
from tests.support.agents import answer
from tests.support.council import NOW, run_to_end


def completed(
    seed: int, *, shadows: tuple[str, ...] = (), shares: dict[str, float] | None = None
) -> DeliberationCompleted:
    """Texts of `candidate` get 8, all others 6; who judges is of the model `judge`, but for drawn ones."""
    task = Task(task_description="Build it", num_agents=4, rounds=0, seed=seed)
    models = {"DEV": RoleModels(shares=shares)} if shares else {}
    begun = decide(None, Requested("t-1", task, 7, NOW, models=models, shadows={"DEV": shadows}))
    wrote: dict[str, str | None] = {}

    def respond(call: AgentRequested) -> AgentResponse:
        if call.phase == "propose":
            wrote[call.agent_id] = call.model
        text = f"{seed} by {call.agent_id}"
        model = "usual" if call.phase == "propose" else "judge"
        return answer(call, judge=lambda _, author: 8 if wrote[author] == "candidate" else 6, text=text, model=model)

    state, _ = run_to_end(begun, respond)
    assert isinstance(state.result, DeliberationCompleted)
    return state.result


def test_a_shadow_is_compared_with_the_members() -> None:
    """By readings of first texts, whose judge is told."""
    usual, new = reports([council_of(completed(seed, shadows=("candidate",))) for seed in range(12)])
    assert (usual.model, usual.proposals, usual.compared) == ("usual", 48, None)
    assert (new.model, new.proposals, new.shadows, new.usual) == ("candidate", 12, 12, "usual")
    assert new.compared is not None
    assert (new.compared.deliberations, new.compared.difference, new.compared.taste) == (12, 2.0, 0.0)
    assert new.compared.verdict == "better"


def test_models_that_share_a_role_are_compared_where_they_meet() -> None:
    """A council of one model alone says nothing."""
    events = [completed(seed, shares={"candidate": 1.0, "usual": 2.0}) for seed in range(40)]
    mixed = sum(len({result.proposal.model for result in event.results}) == 2 for event in events)
    usual, new = reports(map(council_of, events))
    assert (usual.model, new.model) == ("usual", "candidate")
    assert new.compared is not None
    assert 0 < new.compared.deliberations <= mixed < 40
    assert new.compared.difference + new.compared.taste >= 1.9
    assert new.compared.verdict == "better"


def test_a_role_is_compared_with_itself_alone() -> None:
    """And what `--json` shows has the same fields for every model."""
    councils = [council_of(completed(1, shadows=("candidate", "other")))]
    assert list(reports(councils, "QA")) == []
    told = [fields(each) for each in reports(councils, "DEV")]
    assert [each["model"] for each in told] == ["usual", "candidate", "other"]
    assert len({tuple(each) for each in told}) == 1
    assert [each["verdict"] for each in told] == [None, "open", "open"]
