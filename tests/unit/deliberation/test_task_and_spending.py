"""What a result says of its request, of its author's earlier texts, and of what was spent."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.deliberation.events import CancelAsked, Requested
from fleet.deliberation.machine import decide
from fleet.messages import (
    AcceptedConstraints,
    AcceptedOptions,
    AcceptedTask,
    AgentRequested,
    AgentResponse,
    DeliberationCancelled,
    DeliberationCompleted,
    DeliberationFailed,
    EarlierText,
    ModelUsage,
    TotalUsage,
    encode,
)
from fleet.requests.fields import Constraints, DeliberationRequested, Options
from fleet.requests.parse import parse_request
from tests.support.agents import answer, failure
from tests.support.council import NOW, Answerer, begin, completed, run_to_end


def spending(cost: float | None, *, by: dict[str, float | None] | None = None) -> Answerer:
    """Answers, each call for so much; `by`: another cost for some agents."""

    def respond_to(call: AgentRequested) -> AgentResponse:
        told = answer(call)
        used = ModelUsage(**msgspec.structs.asdict(told.usage), calls=1, cost=(by or {}).get(call.agent_id, cost))
        return told.change(usage_by_model={told.model: used})

    return respond_to


def task_of(state: Any) -> AcceptedTask:
    assert state.result is not None
    assert state.result.task is not None
    told: AcceptedTask = state.result.task
    return told


def test_result_has_the_request_with_every_default() -> None:
    """In the form in which it is sent: but for the rubric that was filled in, it can be sent again as the same task."""
    sent = {"task_id": "t-1", "task_description": "Build it", "constraints": {"requirements": ["small"]}}
    task_id, task = parse_request(encode(sent), 1, None)
    state, _ = run_to_end(decide(None, Requested(task_id, task, 1, NOW)))
    told = task_of(state)
    assert (told.task_description, told.num_agents, told.rounds, told.role) == ("Build it", 3, 1, "DEV")
    assert told.constraints.timeout_seconds == 300
    assert told.options.selection == "score"
    again = msgspec.to_builtins(told)
    again["constraints"]["rubric"] = None
    assert parse_request(encode(again), 2, None) == (task_id, task)


@pytest.mark.parametrize(
    ("sent", "of_role", "counted"),
    [
        (None, None, {"correctness": 3.0, "completeness": 2.0, "clarity": 1.0}),
        (None, {"safety": 2.0}, {"safety": 2.0}),
        ({"cost": 1.0}, {"safety": 2.0}, {"cost": 1.0}),
        ("Is it kind?", {"safety": 2.0}, "Is it kind?"),
    ],
)
def test_result_has_the_rubric_that_counted(sent: Any, of_role: Any, counted: Any) -> None:
    """The request's, else its role's, else the default one."""
    task = begin(rubric=sent).state.task
    state, _ = run_to_end(decide(None, Requested("t-1", task, 7, NOW, rubric=of_role)))
    assert task_of(state).constraints.rubric == counted


def test_everything_that_can_be_sent_is_told() -> None:
    """A field that is added to a request is added to the accepted one."""
    pairs: list[tuple[type[Any], type[Any]]] = [
        (DeliberationRequested, AcceptedTask),
        (Constraints, AcceptedConstraints),
        (Options, AcceptedOptions),
    ]
    for sent, told in pairs:
        # A rubric's descriptions are sent as a part of it.
        assert {*sent.__struct_fields__} == {*told.__struct_fields__} - {"content_ref", "descriptions"}


def test_failed_and_cancelled_tasks_have_their_request_too() -> None:
    """Whoever reads them need not look for the question."""
    failed, _ = run_to_end(begin(), failure)
    cancelled = decide(begin().state, CancelAsked("enough", NOW)).state
    assert isinstance(failed.result, DeliberationFailed)
    assert isinstance(cancelled.result, DeliberationCancelled)
    assert task_of(failed).task_description == task_of(cancelled).task_description == "Build it"


def test_earlier_texts_are_told_oldest_first_with_their_rounds() -> None:
    """A round in which the author declined, or failed, leaves no text behind."""

    def respond_to(call: AgentRequested) -> AgentResponse:
        if call.phase == "revise" and call.agent_id.endswith("1") and call.round == 2:
            return answer(call).change(proposal=None, declined="It is right as it is.")
        if call.phase == "revise" and call.agent_id.endswith("2") and call.round == 1:
            return failure(call)
        return answer(call, text=f"{call.phase} {call.round}" if call.phase in ("propose", "revise") else None)

    result, _ = completed(respond_to, num_agents=2, rounds=3, early_stop=False)
    texts = {each.agent_id[-1]: [(one.round, one.content) for one in each.earlier] for each in result.results}
    assert texts == {"1": [(0, "propose 0"), (1, "revise 1")], "2": [(0, "propose 0"), (2, "revise 2")]}
    assert {each.proposal.content for each in result.results} == {"revise 3"}


def test_first_text_alone_has_no_earlier_one() -> None:
    """Nothing was revised."""
    result, _ = completed(num_agents=2, rounds=0)
    assert [each.earlier for each in result.results] == [(), ()]
    assert EarlierText(round=0, content="a").content_ref is None


def test_cost_is_the_sum_over_all_calls() -> None:
    """By model, and of all."""
    result, asked = completed(spending(0.000_001), num_agents=2)
    (used,) = result.usage_by_model.values()
    assert result.cost == used.cost == round(len(asked) * 0.000_001, 9)
    assert TotalUsage(**{name: getattr(used, name) for name in TotalUsage.__struct_fields__}) == result.usage


def telling_no_model(call: AgentRequested) -> AgentResponse:
    return answer(call).change(usage_by_model={})


@pytest.mark.parametrize("answerer", [telling_no_model, spending(None), spending(1.0, by={"agent-dev-002": None})])
def test_cost_is_null_where_one_call_has_none(answerer: Answerer) -> None:
    """A sum of the others would be taken for all: a worker that told no model, or an endpoint without a price."""
    result, _ = completed(answerer, num_agents=2)
    assert result.cost is None


@given(st.permutations(range(8)), st.lists(st.floats(0, 10), min_size=8, max_size=8))
def test_order_of_calls_does_not_show_in_sums(order: list[int], costs: list[float]) -> None:
    """Neither in the cost nor in the order of models."""

    def total(indices: Any) -> ModelUsage:
        used = ModelUsage(cost=0.0)
        for index in indices:
            used += ModelUsage(prompt_tokens=index, cost=round(costs[index], 9))
        return used

    assert total(order) == total(range(8))


def test_failed_calls_are_counted_with_their_model() -> None:
    """What a failed call used is used."""

    def respond_to(call: AgentRequested) -> AgentResponse:
        if call.phase != "propose" or call.agent_id.endswith("1"):
            return spending(0.5)(call)
        used = ModelUsage(prompt_tokens=5, calls=1, failed_calls=1, cost=0.25)
        return failure(call).change(usage=used.usage, usage_by_model={"m": used})

    state, _ = run_to_end(begin(num_agents=2), respond_to)
    assert isinstance(state.result, DeliberationCompleted)
    assert state.result.usage_by_model["m"].failed_calls == 1
    assert state.result.cost == 0.75
